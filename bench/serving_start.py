"""How long ``vlcompress serve`` takes from its start to its first 200 of /v2/health/ready.

    python -m bench.serving_start RUN [--starts 10] [--out bench/results/serving/start.json]

Two ways to start in turn: as it is, which measures the threads that pay, and with threads and sessions given. The first
start of each is not counted: it writes the compiled Python files that an installation has.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from bench.records import write_record
from bench.serving import RunModel
from vlcompress.bench.served import served

WAYS = {"as it is": [], "threads given": ["--threads", "1", "--sessions", "1"]}


def start_seconds(folder: Path, options: list[str]) -> float:
    """Start a server on an exported folder, and stop it once it is ready."""
    start = time.perf_counter()
    with served({"model": folder}, ["--log-level", "error", *options]):
        return time.perf_counter() - start


def torch_is_imported() -> bool:
    """Say whether the command's modules draw in torch."""
    code = "import sys, vlcompress.serve.start, vlcompress.serve.run, vlcompress.serve.engines.onnx_engine; "
    return (
        subprocess.run([sys.executable, "-c", f"{code} sys.exit('torch' in sys.modules)"], check=False).returncode != 0
    )


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = RunModel(arguments.run).folder
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with mock.patch.dict(os.environ, kept, clear=True):
        for _ in range(arguments.starts + 1):
            for way, options in WAYS.items():
                seconds[way].append(round(start_seconds(folder, options), 3))
    found = {
        way: {"median": statistics.median(counted), "seconds": counted, "first": first}
        for way, (first, *counted) in seconds.items()
    }
    write_record("python -m bench.serving_start", {"torch_is_imported": torch_is_imported(), **found}, arguments.out)


if __name__ == "__main__":
    main()

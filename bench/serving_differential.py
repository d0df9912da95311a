"""Our server beside NVIDIA's tritonserver on the same requests; records both statuses of every case.

    VLCOMPRESS_TRITON_VENV=... python -m bench.serving_differential RUN [--out bench/results/serving/differential.json]
        [--statuses tests/serve/live/triton_answers.json]

The run must be exported (``vlcompress export``). NVIDIA's server gets the repository that ``vlcompress export --format
triton`` writes, ours the exported folder; tests/serve/live/differential.py lists the requests and the differences that
are meant.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.records import write_record
from bench.serving import RunModel
from tests.serve.live.differential import DELIBERATE, ask, cases, differences
from tests.serve.live.differential_grpc import call, call_cases, call_differences
from tests.serve.live.triton_reference import VARIABLE, installed, triton_server
from vlcompress.bench.served import served
from vlcompress.export.model_repository import write_model

NAME, MAX_BATCH = "lxmert_vqa", 8


def measure(model: RunModel, venv: Path) -> dict[str, Any]:
    """Ask both servers everything and compare."""
    messages = call_cases(NAME, model.arrays(0, rows=2), MAX_BATCH)
    requests = cases(NAME, model.arrays(0, rows=2), MAX_BATCH)
    with tempfile.TemporaryDirectory() as repository:
        write_model(model.folder, Path(repository) / NAME, batch=MAX_BATCH, threads=1, target_ort="1.27")
        with (
            triton_server(venv, Path(repository)) as reference,
            served({NAME: model.folder}, ["--max-batch", str(MAX_BATCH)], over_grpc=True) as own,
        ):
            pairs = {name: (ask(reference.url, one), ask(own.url, one)) for name, one in requests.items()}
            calls = {name: (call(reference.grpc, *one), call(own.grpc, *one)) for name, one in messages.items()}
            version = ask(reference.url, requests["server metadata"]).content
    found = {name: differences(name, theirs, ours) for name, (theirs, ours) in pairs.items()}
    found |= {f"gRPC: {name}": call_differences(*pair) for name, pair in calls.items()}
    return {
        "reference": f"{version['name']} {version['version']}",
        "cases": {"http": len(pairs), "grpc": len(calls)},
        "unexpected": {name: texts for name, texts in found.items() if texts},
        "deliberate": {name: {"theirs": a, "ours": b, "why": why} for name, (a, b, why) in DELIBERATE.items()},
        "statuses": {name: theirs.status for name, (theirs, _) in pairs.items()},
        "calls": {name: theirs.status for name, (theirs, _) in calls.items()},
    }


def main() -> None:
    """Measure and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--statuses", type=Path)
    arguments = parser.parse_args()
    venv = installed()
    if venv is None:
        raise SystemExit(f"{VARIABLE} names no environment with nvidia-pytriton (tests/serve/live/triton_reference.py)")
    found = measure(RunModel(arguments.run), venv)
    write_record("python -m bench.serving_differential", found, arguments.out)
    if arguments.statuses:
        kept = {key: found[key] for key in ("reference", "statuses", "calls")}
        arguments.statuses.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()

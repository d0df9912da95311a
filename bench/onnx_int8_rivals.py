"""Int8 forms of LXMERT-base in the native kernel beside other runtimes: OpenVINO and torch.compile.

    python -m venv runs/openvino && runs/openvino/bin/pip install openvino numpy
    python -m bench.onnx_int8_rivals --work FOLDER --openvino runs/openvino/bin/python --out FILE

FOLDER holds the graphs of `python -m bench.onnx_int8 build`. Each runtime is a process of its own, one of them works at
a time, in shuffled turns, one thread. A runtime that cannot read its graph is named and left out. This file is also the
worker: it imports nothing of ours but for ONNX Runtime's session and PyTorch's model.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 9
CALLS = 3
Arrays = Mapping[str, Any]
Run = Callable[[], Any]

RUNTIMES = {
    "dense, float32": ("onnxruntime", "dense", "off"),
    "dense, int8": ("onnxruntime", "dense-int8", "off"),
    "16x1 70 %, int8": ("onnxruntime", "blocks-70-int8", "int8"),
    "16x1 70 %, bfloat16": ("onnxruntime", "blocks-70", "bfloat16"),
    "heads+neurons 70 %, int8": ("onnxruntime", "units-70-int8", "off"),
    "heads+neurons 70 %, then 16x1 50 %, int8": ("onnxruntime", "mixed-1-int8", "int8"),
    "OpenVINO, dense, float32": ("openvino", "dense", "f32"),
    "OpenVINO, dense, bfloat16": ("openvino", "dense", "bf16"),
    "OpenVINO, dense, int8": ("openvino", "dense-int8", "f32"),
    "torch.compile, dense, bfloat16": ("torch", "dense", "bfloat16"),
}
"""The runtime, the stem of its graph, and what it computes in."""


def onnxruntime(model: Path, arrays: Arrays, native: Any) -> Run:
    """Open a graph as this project does."""
    from vlcompress.export.runtime import open_session

    session = open_session(model, threads=1, native=native)
    feed = {value.name: arrays[value.name] for value in session.get_inputs()}
    return lambda: session.run(["logits"], feed)[0]


def openvino(model: Path, arrays: Arrays, precision: str) -> Run:
    """Compile a graph in OpenVINO."""
    import openvino as runtime

    hints = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = runtime.Core().compile_model(str(model), "CPU", hints)
    request, feed = (
        compiled.create_infer_request(),
        {value.any_name: arrays[value.any_name] for value in compiled.inputs},
    )
    return lambda: next(iter(request.infer(feed).values()))


def compiled_torch(model: Path, arrays: Arrays, dtype: str) -> Run:
    """Compile the dense model in PyTorch."""
    import torch

    from bench.onnx_int8 import FAMILY, base

    torch.set_num_threads(1)
    kind = getattr(torch, dtype)
    whole = base("base")[1].to(kind)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    tensors = {name: value.to(kind) if value.is_floating_point() else value for name, value in tensors.items()}
    call = torch.compile(lambda: FAMILY.logits(whole, tensors).float(), dynamic=False)

    def run() -> Any:
        with torch.inference_mode():
            return call().numpy()

    return run


OPEN: Mapping[str, Callable[[Path, Arrays, Any], Run]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": compiled_torch,
}


def work(runtime: str, model: str, inputs: str, precision: str, scores: str) -> None:
    """Open, save the scores, and answer each line "CALLS" with the seconds of so many calls."""
    run = OPEN[runtime](Path(model), dict(np.load(inputs)), precision)
    np.save(scores, np.asarray(run()))
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


class Worker:
    """A runtime that waits for its turn."""

    def __init__(self, python: str, name: str, folder: Path, work_folder: Path) -> None:
        runtime, stem, precision = RUNTIMES[name]
        self.scores = folder / f"{name}.npy".replace("/", "-")
        said = [runtime, str(work_folder / f"{stem}.onnx"), str(folder / "inputs.npz"), precision, str(self.scores)]
        command = [python, __file__, "--worker", *said]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line("ready")

    def calls(self, count: int) -> list[float]:
        """Give the seconds of so many calls."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        times: list[float] = json.loads(self._line("["))
        return times

    def _line(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # some runtimes talk on stdout
            if line.startswith(start):
                return line
        raise ChildProcessError("the runtime ended")


def start(work_folder: Path, folder: Path, other: str) -> dict[str, Worker]:
    """Start every runtime that is there and can run its graph."""
    workers = {}
    for name, (runtime, _, _) in RUNTIMES.items():
        try:
            workers[name] = Worker(other if runtime == "openvino" else sys.executable, name, folder, work_folder)
        except (ChildProcessError, FileNotFoundError) as error:
            print(f"{name} is left out: {error}", flush=True)
    return workers


def measure(work_folder: Path, other: str) -> dict[str, Any]:
    """Time all runtimes in shuffled turns; the error is to the float32 scores of the same weights."""
    from dataclasses import asdict

    from bench.onnx_int8 import BATCH, FAMILY, FEATURES, WORDS, inputs_of
    from vlcompress.bench.statistics import latency, paired_ratio
    from vlcompress.export.parity import compare_scores

    inputs = inputs_of(FAMILY.config("base", vocab_size=WORDS, feature_dim=FEATURES))
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        np.savez(folder / "inputs.npz", **{name: tensor.numpy() for name, tensor in inputs.items()})
        workers = start(work_folder, folder, other)
        times: dict[str, list[list[float]]] = {name: [] for name in workers}
        order, shuffle = list(workers), random.Random(0).shuffle
        for _ in range(ROUNDS):
            shuffle(order)
            for name in order:
                times[name].append(workers[name].calls(CALLS)[1:])  # the first call finds cold caches
        truths = {name: np.load(work_folder / f"{RUNTIMES[name][1]}.npy") for name in workers}
        errors = {name: compare_scores([truths[name]], [np.load(one.scores)]) for name, one in workers.items()}
        for one in workers.values():
            one.process.terminate()
    rows = {
        name: {
            "latency": asdict(latency(rounds, BATCH)),
            "speedup": asdict(paired_ratio(times["dense, float32"], rounds)),
            "rel_error": errors[name].max_rel_error,
        }
        for name, rounds in times.items()
    }
    return {"batch": BATCH, "threads": 1, "rounds": ROUNDS, "runtimes": rows}


def main() -> None:
    """Measure, or be a worker."""
    if sys.argv[1] == "--worker":
        return work(*sys.argv[2:])
    from bench.records import write_record

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-int8"))
    parser.add_argument("--openvino", default="", help="Python that has OpenVINO")
    parser.add_argument("--out", type=Path, help="where to write the record")
    said = parser.parse_args()
    record = measure(said.work, said.openvino)
    for name, row in record["runtimes"].items():
        print(
            f"{name:45} {row['speedup']['value']:6.2f}  {row['latency']['p50_ms']:.1f} ms  error {row['rel_error']:.1e}"
        )
    if said.out:
        write_record("python -m bench.onnx_int8_rivals", record, said.out)


if __name__ == "__main__":
    main()

"""Other runtimes on the same masks as our forms, in turn with stock ONNX Runtime on the dense model.

    python -m bench.onnx_rivals install --work FOLDER    # an environment for each, under FOLDER/rivals
    python -m bench.onnx_rivals measure --work FOLDER    # after `bench.onnx_cpu build`; needs `vlcompress native build`
    python -m bench.onnx_rivals table --work FOLDER      # bench/results/onnx/rivals.json and rivals.md

Each runtime is a process of its own (bench/onnx_rival_worker.py), and the driver lets one of them work at a time, in
shuffled turns. How each is installed, into an environment of Python 3.11 that holds nothing else:

    OpenVINO       pip install openvino numpy
    DeepSparse     pip install --only-binary deepsparse deepsparse==1.8.0
    torch.compile  the project's own environment; it needs a C++ compiler and Python's headers

DeepSparse has ended: 1.8.0 is its last release as a wheel (1.9.0 is an sdist that refuses), it brings onnx 1.14 and
numpy 1 by itself, and reads graphs up to opset 17. OpenVINO and DeepSparse get the dense graph with zeros in it, which
is all that they take; DeepSparse with the batch size fixed and all shapes folded, as it answers NaN to a single row
otherwise. A runtime that is not there is left out. `measure` takes what matters most first, skips what is
recorded already, and starts no further group after --minutes. The first run compiles what PyTorch needs and folds
DeepSparse's graphs, which takes minutes: `measure --only torch` and `--only DeepSparse` do it beforehand.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from bench.onnx_cpu import BATCHES, GROUPS, inputs_of, truth
from bench.onnx_tables import RESULTS, read_scores, rivals_table
from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.export.native.build import built
from vlcompress.export.verify import compare_scores

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("onnx_rival_worker.py")
WHEELS = {"openvino": ("openvino", "numpy"), "deepsparse": ("--only-binary", "deepsparse", "deepsparse==1.8.0")}
ROUNDS = 9
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""A runtime whose scores differ by more, relative to the largest one, is left out: its speed would mean nothing."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A runtime on a graph.

    Attributes:
        runtime: as the worker calls it.
        model: stem of the graph's file, "{}" for the per cent; the size of the model for PyTorch.
        pattern: of its zeros.
        precision: of its products.
        native: what our native kernel computes in; "" leaves it out.
    """

    runtime: str
    model: str
    pattern: str
    precision: str = "fp32"
    native: str = ""

    @property
    def home(self) -> str:
        """Name the environment: "" is the project's own."""
        found = self.runtime.partition("-")[0]
        return found if found in WHEELS else ""


REFERENCES = ("dense", "dense, opened again")
"""What all others are compared with: the faster of the two (see bench.onnx_cpu on two sessions of one file)."""

ENTRIES = {
    **dict.fromkeys(REFERENCES, Entry("onnxruntime", "dense", "dense")),
    "ours, heads and neurons": Entry("onnxruntime", "shrunk-{}", "neuron+head"),
    "ours, 192x16": Entry("onnxruntime", "standard-{}", "block:192x16"),
    "ours, 768x16": Entry("onnxruntime", "tall-{}", "block:768x16"),
    "ours, 16x1": Entry("onnxruntime", "native-{}", "block:16x1", native="float32"),
    "ours, 16x1, bfloat16": Entry("onnxruntime", "native-{}", "block:16x1", "bf16", "bfloat16"),
    "DeepSparse, 16x1": Entry("deepsparse", "masked-{}", "block:16x1"),
    "DeepSparse, unstructured": Entry("deepsparse", "unstructured-{}", "unstructured"),
    "OpenVINO, dense": Entry("openvino", "dense", "dense"),
    "OpenVINO, dense, bfloat16": Entry("openvino-bf16", "dense", "dense", "bf16"),
    "OpenVINO, 16x1, sparse weights": Entry("openvino-sparse", "masked-{}", "block:16x1"),
    "torch.compile, dense": Entry("torch", "", "dense"),
    "torch.compile, dense, bfloat16": Entry("torch-bf16", "", "dense", "bf16"),
}


class Rival:
    """A runtime that waits for its turn."""

    def __init__(self, command: list[str]) -> None:
        """Start it and wait until it is ready."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        self.ready: Json = self._answer()

    def calls(self, batch: int, count: int) -> list[float]:
        """Return the seconds of so many calls."""
        return [float(value) for value in self._ask(f"{batch} {count}")]

    def scores(self, batch: int, path: Path) -> Any:
        """Return its scores [batch, answers]."""
        self._ask(f"{batch} scores {path}")
        return np.load(path)

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def _ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # some runtimes talk on stdout
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise ChildProcessError(f"{' '.join(map(str, self.process.args[:4]))} ended")  # type: ignore[index]


def install(work: Path) -> None:
    """Make the environments that are not there yet."""
    for name, wheels in WHEELS.items():
        folder = work / "rivals" / name
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        done = subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "-q", "install", *wheels], check=False)
        print(name, "installed" if done.returncode == 0 else "cannot be installed here: left out")


def measure_all(work: Path, minutes: float, size: str, only: str) -> None:
    """Measure what is not recorded yet, the most important first, for so long."""
    end = time.monotonic() + 60 * minutes
    for sparsity, threads in GROUPS:
        if all(part(work, sparsity, threads, batch).is_file() for batch in BATCHES) or time.monotonic() > end:
            continue
        for record in measure(work, sparsity, threads, size, only):
            if only:
                print(rivals_table([record], read_scores()), flush=True)
                continue
            file = part(work, sparsity, threads, record["batch"])
            write_file(file, dumps(record))
            print(file.name, flush=True)


def part(work: Path, sparsity: int, threads: int, batch: int) -> Path:
    """Name the record of one measurement."""
    return work / "rival-parts" / f"{sparsity}-t{threads}-b{batch}.json"


def measure(work: Path, sparsity: int, threads: int, size: str = "base", only: str = "") -> list[Json]:
    """Compare all runtimes at one sparsity and number of threads: a record for each batch size."""
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            inputs = {name: tensor.numpy() for name, tensor in inputs_of(batch, size).items()}
            np.savez(Path(folder) / f"{batch}.npz", **inputs)
        rivals = _started(work, Path(folder), sparsity, threads, size, only)
        try:
            return [_record(work, Path(folder), rivals, sparsity, threads, batch) for batch in BATCHES]
        finally:
            for rival in rivals.values():
                rival.close()


def _started(work: Path, folder: Path, sparsity: int, threads: int, size: str, only: str) -> dict[str, Rival]:
    """Start every runtime that is there and can run its graph."""
    rivals = {}
    for name, entry in ENTRIES.items():
        python = work / "rivals" / entry.home / "bin" / "python" if entry.home else Path(sys.executable)
        model = _model(entry, work, sparsity, size)
        if model is None or not python.is_file() or (only not in name and name not in REFERENCES):
            continue
        try:
            command = [str(python), str(WORKER), entry.runtime, model, str(folder), str(threads), *map(str, BATCHES)]
            rivals[name] = Rival(command)
            print(name, rivals[name].ready, flush=True)
        except ChildProcessError as error:
            print(f"{name} is left out: {error}", flush=True)
    return rivals


def _model(entry: Entry, work: Path, sparsity: int, size: str) -> str | None:
    """Return what the worker is to open; None if it is not there."""
    if not entry.model:
        return size
    library, file = built(), work / f"{entry.model.format(sparsity)}.onnx"
    if not file.is_file() or (entry.native and library is None):
        return None
    if entry.runtime == "deepsparse":
        return _fixed(file, work / "deepsparse", size)
    return f"{file}@{library.library}@{entry.native}" if entry.native and library else str(file)


def _fixed(source: Path, folder: Path, size: str) -> str:
    """Write a graph for each batch size with every shape in it folded; give their name, "{}" for the batch size."""
    folder.mkdir(exist_ok=True)
    for batch in BATCHES:
        target = folder / f"{source.stem}-b{batch}.onnx"
        if not target.is_file():
            fold_shapes(source, target, inputs_of(batch, size))
    return str(folder / f"{source.stem}-b{{}}.onnx")


def fold_shapes(source: Path, target: Path, inputs: Mapping[str, torch.Tensor]) -> None:
    """Fix the inputs' sizes, and let ONNX Runtime compute all that follows from them; only standard operators stay."""
    model = onnx.load(source)
    for value in model.graph.input:
        for axis, length in zip(value.type.tensor_type.shape.dim, inputs[value.name].shape, strict=True):
            axis.dim_value = length
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = len(next(iter(inputs.values())))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(options.optimized_model_filepath)
        standard = [used for used in folded.opset_import if not used.domain]
        del folded.opset_import[:]
        folded.opset_import.extend(standard)
        onnx.save(folded, options.optimized_model_filepath)
        Path(options.optimized_model_filepath).replace(target)


def _record(work: Path, folder: Path, rivals: Mapping[str, Rival], sparsity: int, threads: int, batch: int) -> Json:
    """Check and time every runtime at one batch size."""
    started = environment()
    errors = {
        name: _error(ENTRIES[name], work, sparsity, batch, rival.scores(batch, folder / "scores.npy"))
        for name, rival in rivals.items()
    }
    right = {name: rivals[name] for name, error in errors.items() if error <= TOLERANCE[ENTRIES[name].precision]}
    for name in rivals.keys() - right.keys():
        print(f"{name} at batch {batch} is left out: its scores differ by {errors[name]:.2g}", flush=True)
    times = _turns(right, batch)
    dense = min((times[name] for name in REFERENCES), key=lambda rounds: latency(rounds, batch).p50_ms)
    rows = {
        name: {
            **rival.ready,
            "pattern": ENTRIES[name].pattern,
            "precision": ENTRIES[name].precision,
            "latency": asdict(latency(times[name], batch)),
            "speedup": asdict(paired_ratio(dense, times[name])),
            "rel_error": errors[name],
        }
        for name, rival in right.items()
    }
    about = {"sparsity": sparsity, "threads": threads, "batch": batch, "rounds": ROUNDS}
    return {**about, "runtimes": rows, "environment": started}


def _error(entry: Entry, work: Path, sparsity: int, batch: int, got: Any) -> float:
    """Compare scores with those that the same weights gave when their graph was checked against PyTorch."""
    checked = truth(work / f"{(entry.model or 'dense').format(sparsity)}.onnx")
    return compare_scores([np.load(checked)[:batch]], [got]).max_rel_error


def _turns(rivals: Mapping[str, Rival], batch: int) -> dict[str, list[list[float]]]:
    times: dict[str, list[list[float]]] = {name: [] for name in rivals}
    order, shuffle = list(rivals), random.Random(0).shuffle
    for _ in range(ROUNDS):
        shuffle(order)
        for name in order:
            times[name].append(rivals[name].calls(batch, 3)[1:])  # the first call finds cold caches
    return times


def table(work: Path) -> str:
    """Put the parts together: rivals.json, and a table in Markdown."""
    found = [part(work, sparsity, threads, batch) for sparsity, threads in GROUPS for batch in BATCHES]
    parts = [json.loads(path.read_text()) for path in found if path.is_file()]
    text = rivals_table(parts, read_scores())
    write_file(RESULTS / "rivals.json", dumps({"parts": parts}))
    write_file(RESULTS / "rivals.md", text)
    return text


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=["install", "measure", "table"])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-cpu"))
    parser.add_argument("--size", default="base", help="of LXMERT; others than base are for trying the script out")
    parser.add_argument("--minutes", type=float, default=10.0, help="start no further measurement after so long")
    parser.add_argument("--only", default="", help="try out the runtimes whose names hold this; nothing is recorded")
    said = parser.parse_args()
    if said.stage == "install":
        install(said.work)
    elif said.stage == "measure":
        measure_all(said.work, said.minutes, said.size, said.only)
    else:
        print(table(said.work))


if __name__ == "__main__":
    main()

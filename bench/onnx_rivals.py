"""Other runtimes on the same masks as our forms, in turn with stock ONNX Runtime on the dense model.

    python -m bench.onnx_rivals install --work FOLDER    # an environment for each, under FOLDER/rivals
    python -m bench.onnx_rivals measure --work FOLDER    # after `bench.onnx_cpu build`; needs `vlcompress native build`

Each runtime is a process of its own (bench/onnx_rival_worker.py) in its own environment, and the driver lets one of
them work at a time, in shuffled turns. OpenVINO and DeepSparse get the dense graph with zeros in it, which is all that
they take. DeepSparse's last release is 1.8.0 as a wheel for Python 3.11; without one it is left out.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.bench.forecast import FEATURES, REGIONS, TEXT, WORDS
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.export.native.build import built
from vlcompress.export.verify import compare_scores
from vlcompress.models.lxmert import LxmertFamily

RESULTS = Path(__file__).parent / "results" / "onnx"
WORKER = Path(__file__).with_name("onnx_rival_worker.py")
WHEELS = {"openvino": ("openvino", "numpy"), "deepsparse": ("--only-binary", "deepsparse", "deepsparse==1.8.0")}
ROUNDS = 7

Json = dict[str, Any]


class Rival:
    """A runtime that waits for its turn."""

    def __init__(self, python: Path, runtime: str, model: str, inputs: Path, threads: int) -> None:
        """Start it and wait until it is ready."""
        command = [str(python), str(WORKER), runtime, model, str(inputs), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready: Json = self._answer()

    def calls(self, count: int) -> list[float]:
        """Give the seconds of so many calls."""
        return [float(value) for value in self._ask(str(count))]

    def scores(self, path: Path) -> Any:
        """Give its scores [batch, answers]."""
        self._ask(f"scores {path}")
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
        raise SystemExit(f"{' '.join(self.process.args)} ended")  # type: ignore[arg-type]


def install(work: Path) -> None:
    """Make the environments."""
    for name, wheels in WHEELS.items():
        folder = work / "rivals" / name
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        done = subprocess.run([str(folder / "bin" / "pip"), "-q", "install", *wheels], check=False)
        print(name, "installed" if done.returncode == 0 else "cannot be installed here: left out")


def measure(work: Path, sparsity: int, batch: int, threads: int) -> Json:
    """Compare all runtimes at one sparsity, batch size and number of threads."""
    library = built()
    plugin = "" if library is None else f"@{library.library}"
    masked, ours = work / f"masked-{sparsity}.onnx", sys.executable
    pythons = {name: work / "rivals" / name / "bin" / "python" for name in WHEELS}
    wanted = {
        "dense": (Path(ours), "onnxruntime", f"{work / 'dense.onnx'}"),
        "ours, 16x1 native": (Path(ours), "onnxruntime", f"{work / f'native-{sparsity}.onnx'}{plugin}"),
        "ours, 16x1 native bf16": (Path(ours), "onnxruntime", f"{work / f'native-{sparsity}.onnx'}{plugin}@bfloat16"),
        "ours, 192x16 standard": (Path(ours), "onnxruntime", f"{work / f'standard-{sparsity}.onnx'}"),
        "ours, heads+neurons": (Path(ours), "onnxruntime", f"{work / f'shrunk-{sparsity}.onnx'}"),
        "OpenVINO dense f32": (pythons["openvino"], "openvino", f"{work / 'dense.onnx'}"),
        "OpenVINO dense bf16": (pythons["openvino"], "openvino-bf16", f"{work / 'dense.onnx'}"),
        "OpenVINO 16x1, sparse weights": (pythons["openvino"], "openvino-sparse", f"{masked}"),
        "DeepSparse 16x1": (pythons["deepsparse"], "deepsparse", f"{masked}"),
    }
    there = {name: how for name, how in wanted.items() if how[0].is_file() and Path(how[2].split("@")[0]).is_file()}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **_inputs(batch))
        rivals = {name: Rival(python, kind, model, inputs, threads) for name, (python, kind, model) in there.items()}
        scores = {name: rival.scores(Path(folder) / "scores.npy") for name, rival in rivals.items()}
        times = _turns(rivals)
        for rival in rivals.values():
            rival.close()
    dense = times["dense"]
    return {
        "sparsity": sparsity,
        "batch": batch,
        "threads": threads,
        "runtimes": {
            name: {
                **rival.ready,
                "latency": asdict(latency(times[name], batch)),
                "speedup": asdict(paired_ratio(dense, times[name])),
                "rel_error": compare_scores([scores[_truth(name, scores)]], [scores[name]]).max_rel_error,
            }
            for name, rival in rivals.items()
        },
    }


def _truth(name: str, scores: Json) -> str:
    """Name the runtime with the same weights whose scores are right: checked against PyTorch when they were built."""
    return "ours, 16x1 native" if "16x1" in name else name if name.startswith("ours") else "dense"


def _turns(rivals: dict[str, Rival]) -> dict[str, list[list[float]]]:
    times: dict[str, list[list[float]]] = {name: [] for name in rivals}
    order, shuffle = list(rivals), random.Random(0).shuffle
    for _ in range(ROUNDS):
        shuffle(order)
        for name in order:
            times[name].append(rivals[name].calls(3)[1:])  # the first call finds cold caches
    return times


def _inputs(batch: int) -> dict[str, Any]:
    family = LxmertFamily()
    config = family.config("base", vocab_size=WORDS, feature_dim=FEATURES)
    tensors = family.example_inputs(config, batch=batch, text=TEXT, regions=REGIONS, seed=0)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def table(records: list[Json]) -> str:
    """Lay the records out in Markdown."""
    lines = ["| runtime | % | batch | threads | speed-up | ms | error | load s |", "|---|---|---|---|---|---|---|---|"]
    for record in records:
        for name, found in record["runtimes"].items():
            ratio = found["speedup"]
            lines.append(
                f"| {name} {found['version']} | {record['sparsity']} | {record['batch']} | {record['threads']} | "
                f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}) | {found['latency']['p50_ms']:.1f} | "
                f"{found['rel_error']:.1e} | {found['load_s']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=["install", "measure"])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-cpu"))
    parser.add_argument("--sparsity", type=int, default=70)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    said = parser.parse_args()
    if said.stage == "install":
        install(said.work)
        return
    file = RESULTS / "rivals.json"
    records = json.loads(file.read_text())["records"] if file.is_file() else []
    record = {**measure(said.work, said.sparsity, said.batch, said.threads), "environment": environment()}
    key = ("sparsity", "batch", "threads")
    records = [one for one in records if [one[k] for k in key] != [record[k] for k in key]] + [record]
    write_file(file, dumps({"records": records}))
    write_file(RESULTS / "rivals.md", table(records))
    print(table([record]))


if __name__ == "__main__":
    main()

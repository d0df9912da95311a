"""How fast pruned LXMERT-base runs in stock ONNX Runtime on a CPU, in every form that it can be exported in.

    python -m bench.onnx_cpu build --work FOLDER       # graphs, some 11 GB; each is checked against PyTorch
    python -m bench.onnx_cpu measure --work FOLDER     # all forms of a sparsity beside dense; repeat to go on
    python -m bench.onnx_cpu table --work FOLDER       # bench/results/onnx/cpu.json and cpu.md

Random weights and random masks: speed depends on where zeros may be, not on the values. Accuracy is measured on trained
tickets of the built-in task (bench.onnx_accuracy), and stands beside each speed. 20 words and 36 regions. All forms of
one sparsity and dense run in one process, in turn, with the same threads and without ONNX Runtime's slow
SkipLayerNormFusion; "stock dense" keeps that fusion, as the runtime does by itself. Two sessions of one file were
measured up to 1.4 times apart, by where their weights lie in memory: each is opened twice, and the faster one counts.
`measure` takes what matters most first, skips what is recorded already, and stops by itself after --minutes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from bench.onnx_accuracy import Key, read_scores, score_cell
from bench.records import RESULTS, Json, markdown, where
from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.bench.harness import measure_openings
from vlcompress.bench.profile import ANSWERS, CHOOSING, FEATURES, REGIONS, TEXT, WORDS
from vlcompress.bench.profile_onnx import NATIVE, SHRUNK, STANDARD, Subject
from vlcompress.bench.random_masks import masked, random_masks
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.errors import VlcompressError
from vlcompress.export.choose import Chooser
from vlcompress.export.parity import compare_scores, require
from vlcompress.export.quantize import Quantizer
from vlcompress.export.runtime import open_session
from vlcompress.export.storage import save_apart
from vlcompress.export.storage import size as bytes_of
from vlcompress.export.tidy import prune_unused
from vlcompress.export.verify import feed, parity, run
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.sparse.compile import layer_rows
from vlcompress.sparse.timing import Effort

FORMS = (
    ("neuron+head", "shrunk", SHRUNK),
    ("block:192x16", "standard", STANDARD),
    ("block:16x1", "native", NATIVE),
    ("block:768x16", "tall", STANDARD),
    ("block:192x16", "native-192x16", NATIVE),
)
"""Patterns, the files that they are measured in, and the forms' names in a profile."""

WRITTEN = {SHRUNK: "shrunk.onnx", STANDARD: "standard.onnx", NATIVE: "native.onnx"}
"""The file that a profile writes for each form."""

ZEROS = {"block:16x1": "masked", "unstructured": "unstructured"}
"""Patterns that other runtimes get as a dense graph with zeros in it, and their files."""

SPARSITIES = (70, 90, 50)
BATCHES = (1, 8)
GROUPS = ((70, 1), (70, 2), (90, 1), (50, 1), (90, 2), (50, 2))
"""(per cent, threads) in the order that they are measured in."""

OPENINGS = 2
"""Sessions of every variant, of which the fastest counts."""

EFFORT = {1: Effort(rounds=11, burst_s=0.15, warmup=1), 8: Effort(rounds=9, burst_s=0.0, warmup=1)}

GOALS = {
    "192x16": {50: 1.85, 70: 3.0, 90: 6.0},
    "768x16": {50: 1.85, 70: 3.0, 90: 6.0},
    "heads and neurons": {50: 2.1, 70: 3.3, 90: 9.5},
    "192x16, native kernel": {50: 1.85, 70: 3.0, 90: 6.0},
    "16x1, native kernel": {50: 2.0, 70: 3.2, 90: 7.5},
    "16x1, native kernel, bfloat16": {70: 4.5},
    "192x16, native kernel, bfloat16": {70: 4.5},
    "heads and neurons, int8": {70: 9.0},
}
"""Times faster than dense float32 that were aimed at, by form and per cent."""

ACCURACY = (
    "The score is that of trained tickets of the built-in task, of **another size** (LXMERT small, hidden size 128, "
    "blocks of 32x16 for 192x16 and of 128x16 for 768x16), at the same kind of pattern, sparsity and precision: see "
    "accuracy.md."
)

Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Variant:
    """One graph as it is opened.

    Attributes:
        pattern: of its zeros: "dense", or a pattern of blocks or units.
        precision: of its products.
        file: stem of the graph's file; "{}" stands for the sparsity in per cent.
        options: of `open_session`.
    """

    pattern: str
    precision: str
    file: str
    options: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = {
    "dense": Variant("dense", "fp32", "dense"),
    "stock dense": Variant("dense", "fp32", "dense", {"disable_skip_layer_norm": False}),
    "heads and neurons": Variant("neuron+head", "fp32", "shrunk-{}"),
    "heads and neurons, int8": Variant("neuron+head", "int8", "shrunk-{}-int8"),
    "16x1, native kernel": Variant("block:16x1", "fp32", "native-{}", {"native": "float32"}),
    "16x1, native kernel, bfloat16": Variant("block:16x1", "bf16", "native-{}", {"native": "bfloat16"}),
    "192x16": Variant("block:192x16", "fp32", "standard-{}"),
    "192x16, native kernel": Variant("block:192x16", "fp32", "native-192x16-{}", {"native": "float32"}),
    "192x16, native kernel, bfloat16": Variant("block:192x16", "bf16", "native-192x16-{}", {"native": "bfloat16"}),
    "192x16, int8": Variant("block:192x16", "int8", "standard-{}-int8"),
    "768x16": Variant("block:768x16", "fp32", "tall-{}"),
    "768x16, int8": Variant("block:768x16", "int8", "tall-{}-int8"),
    "dense, int8": Variant("dense", "int8", "dense-int8"),
}


def dense_model(size: str = "base") -> tuple[LxmertFamily, dict[str, Any], torch.nn.Module]:
    """Build LXMERT for VQA with random weights, always the same."""
    family = LxmertFamily()
    config = family.config(size, vocab_size=WORDS, feature_dim=FEATURES)
    head = Head("answers", tuple(f"answer {i}" for i in range(ANSWERS)))
    return family, config, family.build(config, head, seed=0).eval()


def inputs_of(batch: int, size: str = "base") -> dict[str, torch.Tensor]:
    """Take the first so many of the random inputs that everything is measured on."""
    family = LxmertFamily()
    config = family.config(size, vocab_size=WORDS, feature_dim=FEATURES)
    inputs = family.example_inputs(config, batch=max(BATCHES), text=TEXT, regions=REGIONS, seed=0)
    return {name: tensor[:batch] for name, tensor in inputs.items()}


def build(work: Path, size: str = "base") -> None:
    """Write every graph that is not there yet, and its int8 variant; sparsities in the order of SPARSITIES."""
    family, config, model = dense_model(size)
    rows = layer_rows(family, model, family.prunable(model, "bert-tickets").names, inputs_of(max(BATCHES), size))
    subject = Subject(family, config, model, work, Chooser(1, CHOOSING), rows)
    if not truth(work / "dense.onnx").is_file():
        _written(subject.dense().model, work / "dense.onnx", size)
        quantize(work / "dense.onnx", work / "dense-int8.onnx")
    for sparsity in SPARSITIES:
        for pattern, file, form in FORMS:
            if not truth(work / f"{file}-{sparsity}.onnx").is_file():
                write_form(subject, pattern, sparsity, form, work / f"{file}-{sparsity}.onnx", size)
        for pattern, file in ZEROS.items():
            if not truth(work / f"{file}-{sparsity}.onnx").is_file():
                write_zeros(subject, pattern, sparsity, work / f"{file}-{sparsity}.onnx", size)
    write_file(work / "built.json", dumps(environment()))


def write_form(subject: Subject, pattern: str, sparsity: int, form: str, target: Path, size: str) -> None:
    """Write one form, checked against PyTorch, its scores, and its int8 variant."""
    with scratch(subject, target.parent):
        try:
            found = subject.forms(pattern, sparsity / 100, inputs_of(max(BATCHES), size)).get(form)
        except VlcompressError as error:  # a block that does not divide the weights of another size
            print(error, flush=True)
            return
        if found is None:
            print(f"{pattern} at {sparsity} % has no form '{form}' that is faster than dense here", flush=True)
            return
        written = subject.folder / WRITTEN[form]
        if form != NATIVE:
            quantize(written, target.with_stem(f"{target.stem}-int8"))
        save_apart(ir.load(written), target)
        _written(found.model, target, size)


def write_zeros(subject: Subject, pattern: str, sparsity: int, target: Path, size: str) -> None:
    """Write the dense graph with zeros in it, checked against PyTorch, and its scores."""
    with scratch(subject, target.parent):
        save_apart(ir.load(subject.zeros(pattern, sparsity / 100)), target)
    session = open_session(target, threads=1, native="off")
    with masked(subject.model, random_masks(subject.family, subject.model, pattern, sparsity / 100)):
        found = parity(subject.family, subject.model, session, [inputs_of(max(BATCHES), size)])
    require(found, f"the graph with zeros of {pattern} at {sparsity} % does not compute what the masked model does")
    _written(session, target, size)


@contextmanager
def scratch(subject: Subject, work: Path) -> Iterator[None]:
    """Let a subject write into a temporary folder in `work` inside the block."""
    before = subject.folder
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        subject.folder = Path(temporary)
        yield
    subject.folder = before


def truth(graph: Path) -> Path:
    """Name the file of the scores [inputs, answers] that a graph gave when it was checked."""
    return graph.with_suffix(".npy")


def _written(session: Any, target: Path, size: str) -> None:
    """Keep the scores of a checked session beside its graph: whatever is measured later must still give them."""
    np.save(truth(target), run(session, inputs_of(max(BATCHES), size)))
    print(target.name, flush=True)


def quantize(source: Path, target: Path) -> None:
    """Write the dynamic int8 variant of a graph."""
    model = ir.load(source)
    Quantizer(model).apply()
    prune_unused(model)
    save_apart(model, target)


def measure_all(work: Path, minutes: float, size: str = "base") -> None:
    """Measure what is not recorded yet, the most important first, for so long."""
    end = time.monotonic() + 60 * minutes
    for sparsity, threads in GROUPS:
        missing = [batch for batch in BATCHES if not part(work, sparsity, threads, batch).is_file()]
        if not missing or not (work / "built.json").is_file():
            continue
        group = Group(work, sparsity, threads, size)
        for batch in missing:
            if time.monotonic() > end:
                return
            write_file(part(work, sparsity, threads, batch), dumps(group.measured(batch)))
            print(part(work, sparsity, threads, batch).name, flush=True)


def part(work: Path, sparsity: int, threads: int, batch: int) -> Path:
    """Name the record of one measurement."""
    return work / "parts" / f"{sparsity}-t{threads}-b{batch}.json"


class Group:
    """All variants at one sparsity and number of threads, opened and checked."""

    def __init__(self, work: Path, sparsity: int, threads: int, size: str) -> None:
        self.work, self.sparsity, self.threads, self.size = work, sparsity, threads, size
        self.files = {name: work / f"{variant.file.format(sparsity)}.onnx" for name, variant in VARIANTS.items()}
        self.files = {name: file for name, file in self.files.items() if file.is_file()}
        self.sessions: dict[str, list[Any]] = {name: [] for name in self.files}
        self.load_s = dict.fromkeys(self.files, float("inf"))
        for _ in range(OPENINGS):
            self._open()

    def measured(self, batch: int) -> Json:
        """Check all variants at one batch size, and measure their sessions in turn."""
        inputs = inputs_of(batch, self.size)
        errors, started = {name: self._error(name, batch) for name in self.files}, environment()
        calls = {name: [bound(session, inputs) for session in opened] for name, opened in self.sessions.items()}
        bursts = measure_openings(calls, EFFORT[batch])
        rows = {
            name: {
                "pattern": VARIANTS[name].pattern,
                "precision": VARIANTS[name].precision,
                "latency": asdict(latency(rounds, batch)),
                "speedup": {to: asdict(paired_ratio(bursts[to], rounds)) for to in ("dense", "stock dense")},
                "load_s": self.load_s[name],
                "bytes": bytes_of(self.files[name]),
                "rel_error": errors[name],
            }
            for name, rounds in bursts.items()
        }
        about = {"sparsity": self.sparsity, "threads": self.threads, "batch": batch, "rounds": EFFORT[batch].rounds}
        built = json.loads((self.work / "built.json").read_text())
        return {**about, "variants": rows, "environment": started, "graphs_of_commit": built["commit"]}

    def _open(self) -> None:
        """Open every variant once more; the shortest time of a file counts, as the first one may wait for the disk."""
        for name, file in self.files.items():
            start = time.perf_counter()
            self.sessions[name].append(open_session(file, threads=self.threads, **VARIANTS[name].options))
            self.load_s[name] = min(self.load_s[name], round(time.perf_counter() - start, 2))

    def _error(self, name: str, batch: int) -> float:
        """Compare with the checked float32 scores of the same masks; float32 itself must keep them."""
        checked = self.files[name].with_stem(self.files[name].stem.removesuffix("-int8"))
        got = run(self.sessions[name][-1], inputs_of(batch, self.size))
        found = compare_scores([np.load(truth(checked))[:batch]], [got])
        if VARIANTS[name].precision == "fp32":
            require(found, f"'{name}' no longer computes what was checked when it was built")
        return found.max_rel_error


def bound(session: Any, inputs: Any) -> Any:
    """Bind a session to fixed inputs."""
    arrays = feed(session, inputs)
    return lambda: session.run(None, arrays)


def table(work: Path) -> str:
    """Put the parts together: cpu.json, and a table in Markdown."""
    found = [part(work, sparsity, threads, batch) for sparsity, threads in GROUPS for batch in BATCHES]
    parts = [json.loads(path.read_text()) for path in found if path.is_file()]
    text = cpu_table(parts, read_scores())
    write_file(RESULTS / "onnx" / "cpu.json", dumps({"parts": parts}))
    write_file(RESULTS / "onnx" / "cpu.md", text)
    return text


def cpu_table(parts: Sequence[Json], scores: Mapping[Key, float]) -> str:
    """Lay out every form beside dense, with the goals, and the score that its pattern keeps."""
    if not parts:
        return "Nothing was measured yet.\n"
    rounds = ", ".join(sorted({f"{one['rounds']} at batch {one['batch']}" for one in parts}))
    made = where([one["environment"] for one in parts])
    head = ("form", "%", "batch", "threads", "over dense", "goal", "reached", "over stock dense", "ms", "error")
    return (
        f"LXMERT-base, 20 words, 36 regions, stock ONNX Runtime, random weights and masks. {made}\n\n"
        "Times faster than dense float32 in the same process, in turn, with the same threads: median and 95 % interval "
        f"over rounds ({rounds}). *over dense* has ONNX Runtime's SkipLayerNormFusion switched off on both sides, and "
        "is what the goal is held against; *over stock dense* is against dense as the runtime opens it by itself. ms "
        "is the median of a call, error the largest difference of a score from the checked float32 scores of the same "
        f"masks, as a share of the largest.\n\n{ACCURACY}\n\n"
        + markdown((*head, "load s", "MB", "task score (another size)"), _cpu_rows(parts, scores))
    )


def _cpu_rows(parts: Sequence[Json], scores: Mapping[Key, float]) -> Iterator[Sequence[str]]:
    for part in parts:
        percent = part["sparsity"]
        for name, row in part["variants"].items():
            if name == "dense":
                continue
            ratio, goal = row["speedup"]["dense"], GOALS.get(name, {}).get(percent)
            dense = row["pattern"] == "dense"
            yield (
                name,
                "-" if dense else str(percent),
                str(part["batch"]),
                str(part["threads"]),
                ratio_cell(ratio),
                "-" if goal is None else f"{goal:g}",
                "-" if goal is None else "yes" if ratio["value"] >= goal else "no",
                ratio_cell(row["speedup"]["stock dense"]),
                f"{row['latency']['p50_ms']:.1f}",
                f"{row['rel_error']:.0e}",
                f"{row['load_s']:.1f}",
                f"{row['bytes'] / 1e6:.0f}",
                score_cell(scores, row["pattern"], percent, row["precision"]),
            )


def ratio_cell(ratio: Json) -> str:
    """Write a ratio with its interval."""
    return f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=["build", "measure", "table"])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-cpu"))
    parser.add_argument("--size", default="base", help="of LXMERT; others than base are for trying the script out")
    parser.add_argument("--minutes", type=float, default=10.0, help="start no further measurement after so long")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.stage == "build":
        build(options.work, options.size)
    elif options.stage == "measure":
        measure_all(options.work, options.minutes, options.size)
    else:
        print(table(options.work))


if __name__ == "__main__":
    main()

"""How fast pruned LXMERT-base runs in stock ONNX Runtime on a CPU, in every form that it can be exported in.

    python -m bench.onnx_cpu build --work FOLDER       # graphs, some 10 GB; each is checked against PyTorch
    python -m bench.onnx_cpu measure --work FOLDER     # each form beside dense, in a process; repeat to go on
    python -m bench.onnx_cpu table --work FOLDER       # bench/results/onnx/cpu.json -> cpu.md

Random weights and random masks: speed depends on where zeros may be, not on the values; it says nothing about
accuracy. 20 words and 36 regions. Dense and pruned run in one process, in turn, with the same threads and the same
optimizers; "unfused" leaves out ONNX Runtime's SkipLayerNormFusion, whose fp32 kernel is slow, for dense as well.
`measure` skips what is recorded already, and stops by itself after --minutes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.bench.forecast import ANSWERS, CHOOSING, FEATURES, REGIONS, TEXT, WORDS
from vlcompress.bench.forecast_forms import Subject
from vlcompress.bench.harness import measure
from vlcompress.bench.random_masks import POLICY
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.export.choose import Chooser
from vlcompress.export.quantize import Quantizer
from vlcompress.export.runtime import open_session
from vlcompress.export.storage import save_apart, size
from vlcompress.export.tidy import prune_unused
from vlcompress.export.verify import compare_scores, feed
from vlcompress.models.base import Head
from vlcompress.models.lxmert import LxmertFamily
from vlcompress.sparse.compile import layer_rows
from vlcompress.sparse.timing import Effort

RESULTS = Path(__file__).parent / "results" / "onnx"
FORMS = {"block:16x1": "native", "neuron+head": "shrunk", "block:192x16": "standard"}
SPARSITIES = (0.7, 0.9, 0.5)
BATCHES = (1, 8)
THREADS = (1, 2)
EFFORT = {1: Effort(rounds=7, burst_s=0.15, warmup=1), 8: Effort(rounds=5, burst_s=0.0, warmup=1)}

Inputs = Mapping[str, torch.Tensor]
Json = dict[str, Any]


def build(work: Path) -> None:
    """Write every graph that is not there yet, and its int8 variant."""
    family = LxmertFamily()
    config = family.config("base", vocab_size=WORDS, feature_dim=FEATURES)
    model = family.build(config, Head("answers", tuple(f"answer {i}" for i in range(ANSWERS))), seed=0).eval()
    inputs = {
        batch: family.example_inputs(config, batch=batch, text=TEXT, regions=REGIONS, seed=0) for batch in BATCHES
    }
    rows = layer_rows(family, model, family.prunable(model, POLICY).names, inputs[8])
    subject = Subject(family, config, model, work, Chooser(1, CHOOSING), rows)
    if not (work / "dense.onnx").is_file():
        subject.dense()
        quantize(work / "dense.onnx", work / "dense-int8.onnx")
    for sparsity in SPARSITIES:
        for pattern, form in FORMS.items():
            target = work / f"{form}-{100 * sparsity:.0f}.onnx"
            if not target.is_file() and write_form(subject, pattern, sparsity, form, inputs[1], target):
                print(target.name, flush=True)


def write_form(subject: Subject, pattern: str, sparsity: float, form: str, inputs: Inputs, target: Path) -> bool:
    """Write one form and what is compared with it: int8, or for other runtimes the dense graph with zeros."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        subject.folder = Path(folder)
        subject.forms(pattern, sparsity, inputs)
        written = subject.folder / f"{form}.onnx"
        if not written.is_file():
            print(f"{pattern} at {sparsity:g} has no form '{form}' that is faster than dense here", flush=True)
            return False
        if form == "native":
            save_apart(ir.load(subject.zeros(pattern, sparsity)), target.with_name(f"masked-{100 * sparsity:.0f}.onnx"))
        else:
            quantize(written, target.with_stem(f"{target.stem}-int8"))
        save_apart(ir.load(written), target)
    return True


def quantize(source: Path, target: Path) -> None:
    """Write the dynamic int8 variant of a graph."""
    model = ir.load(source)
    Quantizer(model).apply()
    prune_unused(model)
    save_apart(model, target)


def measure_all(work: Path, only: str, minutes: float) -> None:
    """Measure what is not recorded yet, for so long."""
    end = time.monotonic() + 60 * minutes
    for threads in THREADS:
        for path in sorted(work.glob(only)):
            record = work / "parts" / f"{path.stem}-t{threads}.json"
            if path.stem == "dense" or path.stem.startswith("masked") or record.is_file():
                continue
            if time.monotonic() > end:
                return
            write_file(record, dumps(measured(work / "dense.onnx", path, threads)))
            print(record.name, flush=True)


def measured(dense: Path, path: Path, threads: int) -> Json:
    """Compare one graph with dense, both with and without the fusion; packed nodes in bfloat16 as well."""
    variants: dict[str, tuple[Path, dict[str, Any]]] = {
        "dense": (dense, {}),
        "dense, fused": (dense, {"disable_skip_layer_norm": False}),
        "form": (path, {"native": "float32"}),
        "form, fused": (path, {"disable_skip_layer_norm": False, "native": "float32"}),
    }
    if path.stem.startswith("native"):
        variants["form, bfloat16"] = (path, {"native": "bfloat16"})
    calls, loads = {}, {}
    for name, (file, options) in variants.items():
        start = time.perf_counter()
        calls[name] = open_session(file, threads=threads, **options)
        loads[name] = round(time.perf_counter() - start, 2)
    family = LxmertFamily()
    config = family.config("base", vocab_size=WORDS, feature_dim=FEATURES)
    batches = {}
    for batch in BATCHES:
        inputs = family.example_inputs(config, batch=batch, text=TEXT, regions=REGIONS, seed=0)
        bursts = measure({name: bound(session, inputs) for name, session in calls.items()}, EFFORT[batch])
        pairs = {name: "dense, fused" if "fused" in name else "dense" for name in variants if "dense" not in name}
        batches[str(batch)] = {
            "speedup": {name: asdict(paired_ratio(bursts[to], bursts[name])) for name, to in pairs.items()},
            "latency": {name: asdict(latency(rounds, batch)) for name, rounds in bursts.items()},
        }
    truth = scores(calls["form"], inputs)
    return {
        "form": path.stem,
        "threads": threads,
        "batches": batches,
        "load_s": loads,
        "bytes": size(path),
        "rel_error_to_form": {
            name: compare_scores([truth], [scores(call, inputs)]).max_rel_error
            for name, call in calls.items()
            if name.startswith("form,")
        },
        "environment": environment(),
    }


def bound(session: Any, inputs: Any) -> Any:
    """Give the call that runs a session on fixed inputs."""
    arrays = feed(session, inputs)
    return lambda: session.run(None, arrays)


def scores(session: Any, inputs: Any) -> Any:
    """Give the scores [batch, answers]."""
    return session.run(["logits"], feed(session, inputs))[0]


def table(work: Path) -> str:
    """Put the parts together: cpu.json, and a table in Markdown."""
    parts = [json.loads(path.read_text()) for path in sorted((work / "parts").glob("*.json"))]
    write_file(RESULTS / "cpu.json", dumps({"parts": parts}))
    lines = [
        "| form | threads | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " | load s | MB |",
        "|---|---|" + "---|" * len(BATCHES) + "---|---|",
    ]
    for part in parts:
        for name in part["batches"]["1"]["speedup"]:
            found = [part["batches"][str(batch)]["speedup"][name] for batch in BATCHES]
            cells = [f"{one['value']:.2f} ({one['low']:.2f}-{one['high']:.2f})" for one in found]
            title = f"{part['form']}{name.removeprefix('form')}"
            lines.append(
                f"| {title} | {part['threads']} | {' | '.join(cells)} | {part['load_s'][name]} | "
                f"{part['bytes'] / 1e6:.0f} |"
            )
    text = "\n".join(lines) + "\n"
    write_file(RESULTS / "cpu.md", text)
    return text


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=["build", "measure", "table"])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-cpu"))
    parser.add_argument("--only", default="*.onnx", help="graphs to measure, as a file pattern")
    parser.add_argument("--minutes", type=float, default=4.0)
    said = parser.parse_args()
    said.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if said.stage == "build":
        build(said.work)
    elif said.stage == "measure":
        measure_all(said.work, said.only, said.minutes)
    else:
        print(table(said.work))


if __name__ == "__main__":
    main()

"""How fast int8 is in ONNX Runtime on this CPU: blocks in the native kernel, and heads and neurons, beside dense.

    python -m bench.onnx_int8 build --work FOLDER      # graphs of LXMERT-base, some 3 GB for each sparsity
    python -m bench.onnx_int8 measure --work FOLDER --out bench/results/onnx/int8.json

Random weights and masks: speed depends on where zeros may be, not on the values. 20 words and 36 regions. All forms
run in one process, in turn, with the same threads and without ONNX Runtime's slow SkipLayerNormFusion; each file is
opened twice and the faster session counts, since two sessions of one file differ by where their weights lie in memory.
The kernel's forms need `vlcompress native build`. Single layers: `bench.onnx_int8_layers`.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from bench.records import write_record
from vlcompress.bench.harness import measure_openings
from vlcompress.bench.profile import ANSWERS, FEATURES, REGIONS, TEXT, WORDS
from vlcompress.bench.profile_onnx import emitting, native_layers, whole
from vlcompress.bench.random_masks import POLICY, masked, random_masks
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.export.parity import compare_scores
from vlcompress.export.quantize import Quantizer
from vlcompress.export.rewrite import Rewriter, WrittenLayer
from vlcompress.export.runtime import Native, open_session
from vlcompress.export.storage import save_apart, size
from vlcompress.export.target import OPSET
from vlcompress.export.tidy import prune_unused
from vlcompress.export.trace import trace
from vlcompress.export.verify import feed, run
from vlcompress.kernels.formats import pack_masked
from vlcompress.models.base import Config, Head, scores_of
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.sparse.shrink import shrink
from vlcompress.sparse.timing import Effort

BATCH = 8
OPENINGS = 2
EFFORT = Effort(rounds=11, burst_s=0.15, warmup=1)
BLOCK = "block:16x1"
SPARSITIES = (70, 50, 90)
MIXED = {"heads+neurons 50 %, then 16x1 40 %": (0.5, 0.4), "heads+neurons 70 %, then 16x1 50 %": (1 - 928 / 3072, 0.5)}
"""Units that go from each layer, then blocks from what is left: 70 and 85 % of the prunable weights."""

GOALS = {"16x1 50 %, int8": 5.2, "16x1 70 %, int8": 6.3, "16x1 90 %, int8": 8.0} | {
    f"{name}, int8": 12.0 for name in MIXED
}
"""Times faster than dense float32 that were aimed at."""

FAMILY = LxmertFamily()


@dataclass(frozen=True)
class Form:
    """One file as it is opened.

    Attributes:
        file: stem.
        native: what the native kernel computes in, or "off".
    """

    file: str
    native: Native = "off"


def forms() -> dict[str, Form]:
    """List all forms by name."""
    found = {"dense, float32": Form("dense"), "dense, int8": Form("dense-int8")}
    found["16x1 70 %, float32"] = Form("blocks-70", "float32")
    found["16x1 70 %, bfloat16"] = Form("blocks-70", "bfloat16")
    for percent in SPARSITIES:
        found[f"16x1 {percent} %, int8"] = Form(f"blocks-{percent}-int8", "int8")
        found[f"16x1 {percent} %, int8 without the kernel"] = Form(f"blocks-{percent}-int8")
        found[f"heads+neurons {percent} %, int8"] = Form(f"units-{percent}-int8")
    for number, name in enumerate(MIXED):
        found[f"{name}, int8"] = Form(f"mixed-{number}-int8", "int8")
    return found


def base(size_: str) -> tuple[Config, nn.Module]:
    """Build LXMERT for VQA with random weights, always the same."""
    config = FAMILY.config(size_, vocab_size=WORDS, feature_dim=FEATURES)
    head = Head("answers", tuple(f"answer {i}" for i in range(ANSWERS)))
    return config, FAMILY.build(config, head, seed=0).eval()


def inputs_of(config: Config) -> dict[str, torch.Tensor]:
    """Make the random inputs that everything is measured on."""
    return FAMILY.example_inputs(config, batch=BATCH, text=TEXT, regions=REGIONS, seed=0)


class Builder:
    """Writes graphs that are not there yet, each with the scores of its float32 weights in PyTorch."""

    def __init__(self, work: Path, size_: str) -> None:
        self.work = work
        self.config, self.model = base(size_)
        self.inputs = inputs_of(self.config)

    def dense(self) -> None:
        """Write the whole model, in float32 and in int8."""
        if not self._there("dense-int8"):
            graph = trace(FAMILY, self.model, self.config)
            self._write(graph, "dense", self.model)
            self._write(graph, "dense-int8", self.model, quantize=True)

    def blocks(self, percent: int) -> None:
        """Write 16x1 blocks, packed in float32 and in int8."""
        if not self._there(f"blocks-{percent}-int8"):
            masks = random_masks(FAMILY, self.model, BLOCK, percent / 100)
            with masked(self.model, masks):
                self._packed(self.model, masks, f"blocks-{percent}", ("float32", "int8"))

    def units(self, percent: int) -> None:
        """Write the model without heads and neurons, in int8."""
        if not self._there(f"units-{percent}-int8"):
            masks = random_masks(FAMILY, self.model, "neuron+head", percent / 100)
            with masked(self.model, masks):
                smaller, _, _ = shrink(FAMILY, self.model, masks)
            self._write(trace(FAMILY, smaller, self.config), f"units-{percent}-int8", smaller, quantize=True)

    def mixed(self, number: int, units: float, blocks: float) -> None:
        """Write the model without heads and neurons, the rest in blocks, in int8."""
        if self._there(f"mixed-{number}-int8"):
            return
        masks = random_masks(FAMILY, self.model, "neuron+head", units)
        with masked(self.model, masks):
            smaller, _, _ = shrink(FAMILY, self.model, masks)
        masks = random_masks(FAMILY, smaller, BLOCK, blocks)
        with masked(smaller, masks):
            self._packed(smaller, masks, f"mixed-{number}", ("int8",))

    def _packed(self, model: nn.Module, masks: Mapping[str, torch.Tensor], name: str, kinds: tuple[str, ...]) -> None:
        weights = {key: model.get_parameter(key).data for key in masks}
        layers = native_layers({key: pack_masked(weights[key], mask, (16, 1)) for key, mask in masks.items()})
        graph = trace(FAMILY, emitting(model, FAMILY.prunable(model, POLICY).names), self.config)
        for kind in kinds:
            written = graph.clone()
            others = {key: WrittenLayer(whole(weights[key])) for key in weights.keys() - layers.keys()}
            Rewriter(written, OPSET, kind == "int8").apply({**others, **layers})
            self._write(written, name if kind == "float32" else f"{name}-int8", model, quantize=kind == "int8")

    def _there(self, name: str) -> bool:
        return (self.work / f"{name}.npy").is_file()

    def _write(self, graph: ir.Model, name: str, model: nn.Module, *, quantize: bool = False) -> None:
        if quantize:
            Quantizer(graph, "blocks" in name or "mixed" in name).apply()
        prune_unused(graph)
        save_apart(graph, self.work / f"{name}.onnx")
        np.save(self.work / f"{name}.npy", scores_of(FAMILY, model, self.inputs).numpy())
        print(name, flush=True)


def build(work: Path, size_: str) -> None:
    """Write all graphs, what matters most first."""
    builder = Builder(work, size_)
    builder.dense()
    for percent in SPARSITIES:
        builder.blocks(percent)
        builder.units(percent)
    for number, shares in enumerate(MIXED.values()):
        builder.mixed(number, *shares)


def measure(work: Path, size_: str, only: str) -> dict[str, Any]:
    """Open all forms, compare each with its float32 scores, and time them in turn."""
    inputs = inputs_of(FAMILY.config(size_, vocab_size=WORDS, feature_dim=FEATURES))
    found = {name: form for name, form in forms().items() if only in name or name.startswith("dense")}
    found = {name: form for name, form in found.items() if (work / f"{form.file}.npy").is_file()}
    sessions: dict[str, list[Any]] = {name: [] for name in found}
    for _ in range(OPENINGS):
        for name, form in found.items():
            sessions[name].append(open_session(work / f"{form.file}.onnx", threads=1, native=form.native))
    errors = {
        name: compare_scores([np.load(work / f"{form.file}.npy")], [run(sessions[name][0], inputs)])
        for name, form in found.items()
    }
    calls = {name: [_call(session, inputs) for session in opened] for name, opened in sessions.items()}
    bursts = measure_openings(calls, EFFORT)
    return {
        "batch": BATCH,
        "threads": 1,
        "rounds": EFFORT.rounds,
        "forms": {
            name: {
                "latency": asdict(latency(rounds, BATCH)),
                "speedup": asdict(paired_ratio(bursts["dense, float32"], rounds)),
                "goal": GOALS.get(name),
                "rel_error": errors[name].max_rel_error,
                "bytes": size(work / f"{found[name].file}.onnx"),
            }
            for name, rounds in bursts.items()
        },
    }


def _call(session: Any, inputs: Mapping[str, torch.Tensor]) -> Any:
    arrays = feed(session, inputs)
    return lambda: session.run(None, arrays)


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Lay out a record, a line for each form."""
    for name, row in record["forms"].items():
        ratio, goal = row["speedup"], row["goal"] or "-"
        yield (
            f"{name:45} {ratio['value']:6.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})  goal {goal}  "
            f"{row['latency']['p50_ms']:.1f} ms  error {row['rel_error']:.1e}"
        )


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=["build", "measure"])
    parser.add_argument("--work", type=Path, default=Path("runs/onnx-int8"))
    parser.add_argument("--size", default="base", help="of LXMERT; others than base are for trying the script out")
    parser.add_argument("--only", default="", help="measure dense and the forms whose names hold this")
    parser.add_argument("--out", type=Path, help="where to write the record")
    said = parser.parse_args()
    said.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if said.stage == "build":
        build(said.work, said.size)
        return
    record = measure(said.work, said.size, said.only)
    print("\n".join(lines(record)))
    if said.out:
        write_record("python -m bench.onnx_int8 measure", {"size": said.size, **record}, said.out)


if __name__ == "__main__":
    main()

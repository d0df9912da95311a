"""ONNX files that are smaller and faster where the ticket allows it, and that were checked before they exist."""

import gc
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from vlcompress.artefacts import disk_errors, dumps, seal, write_file, writing
from vlcompress.errors import VlcompressError
from vlcompress.export.choose import Chooser
from vlcompress.export.functions import packable
from vlcompress.export.lowering import Form
from vlcompress.export.manifest import (
    FILE,
    ExportBytes,
    ExportedLayer,
    ExportManifest,
    GraphSpeed,
    NativeSpeed,
    TensorSpec,
)
from vlcompress.export.native.build import built
from vlcompress.export.parity import BOUNDS, Precision
from vlcompress.export.preprocessing import TOKENIZER, VOCABULARY, reading_files
from vlcompress.export.quantize import Quantizer, constant_weight
from vlcompress.export.rewrite import Rewriter, WrittenLayer, holds_packed_nodes
from vlcompress.export.runtime import SKIP_LAYER_NORM, Native, open_session, require_provider
from vlcompress.export.samples import write_samples
from vlcompress.export.sizes import layer_sizes, unpruned_bytes
from vlcompress.export.storage import LIMIT, save_apart, save_onnx, size
from vlcompress.export.target import Target, target
from vlcompress.export.tidy import prune_unused
from vlcompress.export.trace import trace
from vlcompress.export.verify import Gate, check_graph, feed, refuse_nan
from vlcompress.kernels.backends import SparseWeight
from vlcompress.kernels.formats import BlockSparseWeight
from vlcompress.kernels.grouped import RowGroups, row_panels
from vlcompress.models.base import Config, Family, Head
from vlcompress.results import to_json
from vlcompress.sparse.choice import LayerChoice
from vlcompress.sparse.compile import layer_rows, sparse_layers
from vlcompress.sparse.timing import EFFORT, Effort, Timing, compare

Inputs = Mapping[str, Tensor]

Variant = tuple[Path, list[str]]
"""A graph, and the optimizers to switch off."""

Score = Callable[[Any], float]
"""Gives the task's score of an opened session, in [0, 1]."""

MODEL_EFFORT = Effort(rounds=3, burst_s=0.02, warmup=1)
"""What whole models are measured with: seconds, not minutes, at the published size."""

SMALL = 50_000_000
"""Bytes below which sessions of one file differ more than what is compared, by where their weights lie in memory."""

MODEL_SAMPLES = 4
"""Most examples of the batch that whole models are measured on, for the same reason."""

NOISE = 0.02
"""Whole models within this share of each other count as equally fast; the lowered one then has the smaller file."""

FEW = 0.1
"""Of a file's weights, products of so many at most round activations row by row in standard operators, which makes them
half as fast. With the native kernel no answer then depends on what else is in the batch."""

WORTH_PACKING = 0.75
"""A layer that runs dense is stored packed where that takes at most this share of its bytes."""


@dataclass(frozen=True)
class Style:
    """How a file is to be written.

    Attributes:
        precision: "fp32"; "fp16" for GPUs (layers are then dense or shrunk: gathers cost more launches than they save
            there); "int8" for dynamically quantised products.
        expand: write plain standard operators in place of packed nodes with functions: some runtimes have no functions.
        provider: where to measure and to check.
        target: operator set and file format.
        limit: bytes above which the weights get a file of their own.
    """

    precision: Precision = "fp32"
    expand: bool = False
    provider: str = "cpu"
    target: Target = field(default_factory=Target)
    limit: int = LIMIT

    @property
    def packed(self) -> bool:
        """Whether layers become packed nodes."""
        return self.precision != "fp16" and not self.expand


def style(
    *,
    quantize: str | None = None,
    fp16: bool = False,
    expand: bool = False,
    provider: str = "cpu",
    opset: int | None = None,
    runtime: str | None = None,
) -> Style:
    """Turn what a user asks for into a style.

    Args:
        quantize: "int8", or None.
        fp16: float16.
        expand: see `Style`.
        provider: likewise; it must be there.
        opset: operator set; None picks it.
        runtime: release of onnxruntime that must read the file; None for any.

    Raises:
        VlcompressError: things that exclude each other, or an unknown provider, operator set or release.
    """
    if quantize and fp16:
        raise VlcompressError("--quantize int8 and --fp16 exclude each other: a file has one precision, choose one")
    require_provider(provider)
    precision: Precision = "int8" if quantize else "fp16" if fp16 else "fp32"
    return Style(precision, expand, provider, target(opset, runtime))


@dataclass(frozen=True)
class LayerExport:
    """How one packed layer was written: its choice in ONNX Runtime, and the form (None for dense)."""

    weight: SparseWeight
    rows: int
    choice: LayerChoice
    form: Form | None


def export_onnx(
    family: Family,
    model: nn.Module,
    folder: Path,
    samples: Sequence[Inputs],
    *,
    config: Config,
    head: Head,
    threads: int = 1,
    effort: Effort = EFFORT,
    style: Style | None = None,
    score: Score | None = None,
    reference: float | None = None,
    buckets: Mapping[str, Sequence[int]] | None = None,
    origin: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
) -> ExportManifest:
    """Write the artefact ``onnx/``: model.onnx, labels.txt, config.json, preprocessing.json, tokenizer.json,
    verification.npz, manifest.json.

    Packed layers are written as row groups where ONNX Runtime, on this machine, is at least 5 % faster with that, and
    dense elsewhere; if the whole model is slower for it, all of it stays dense. Nothing is left behind if a check
    fails, but the worst sample, in ``FOLDER.failed/``.

    Args:
        family: the model's family.
        model: a dense, masked or compiled model on the CPU; it is the truth that the file is compared with.
        folder: where; replaced if it exists.
        samples: batches of real inputs for the parity check; the first one's shape is what the file is tuned for.
        config: the model's configuration.
        head: its head; the labels go into labels.txt, one a line, in the order of the scores.
        threads: threads of ONNX Runtime while measuring.
        effort: how long to measure each layer.
        style: how to write it; by default float32, packed nodes, for the CPU.
        score: scores the file on its task; needed for "fp16" and "int8".
        reference: the float32 model's score on the task; likewise.
        buckets: sizes to which a server should pad each axis ("text": [14]); by default those of the samples.
        origin: where the model comes from: "recipe_sha256", "vlcompress", "task" of the manifest.
        beside: texts of files to keep with the model, by name (vocab.txt): the folder can then be served by itself.

    Raises:
        VerificationError: invalid ONNX, scores that differ from the PyTorch model's, or a task score that drops.
        VlcompressError: a weight that is NaN, no samples, a provider that is not there, or a folder that cannot be
            written.
    """
    style = style or Style()
    _refuse(model, samples, style)
    check = Gate(family, model.eval(), samples, config, BOUNDS[style.precision], folder)
    with _scratch(folder) as scratch, writing(folder) as temporary:
        layers, rewritten = _write_graphs(family, model, config, scratch, samples[0], threads, effort, style)
        picked, speed = _faster(scratch, rewritten, samples[0], threads, style)
        check_graph(picked)
        save_onnx(picked, temporary / "model.onnx", style.limit)
        session = _open(temporary / "model.onnx", threads, style.provider, speed.disabled_optimizers)
        manifest = ExportManifest(
            **(origin or {}),
            family=family.name,
            inputs=_specs(session.get_inputs()),
            outputs=_specs(session.get_outputs()),
            padding=_padding(family, samples, buckets or {}),
            opset=style.target.opset,
            ir_version=style.target.ir_version,
            precision=style.precision,
            provider=style.provider,
            expanded=not style.packed,
            layers=tuple(_exported(name, layer, picked.stem) for name, layer in layers.items()),
            parity=check.parities(session),
            task_score=check.task_score(session, score, reference),
            speed=speed,
            native=_native(check, session, temporary / "model.onnx", style, speed, (score, reference))
            if holds_packed_nodes(picked)
            else None,
            bytes=ExportBytes(
                size(temporary / "model.onnx"),
                size(scratch / "dense.onnx"),
                layer_sizes(model),
                unpruned_bytes(family, config, head),
            ),
        )
        words = next((text for name, text in (beside or {}).items() if name in (VOCABULARY, TOKENIZER)), None)
        texts = {
            "labels.txt": "".join(f"{label}\n" for label in head.labels),
            "config.json": dumps({"family": family.name, "config": config}),
            **(beside or {}),
            **reading_files(family, config, head, words),
        }
        for name, text in texts.items():
            write_file(temporary / name, text)
        write_samples(temporary, feed(session, samples[0]), lambda few: session.run(["logits"], dict(few))[0])
        seal(temporary, FILE, to_json(manifest))
    return manifest


def _refuse(model: nn.Module, samples: Sequence[Inputs], style: Style) -> None:
    """Refuse what cannot be exported before anything is traced."""
    if not samples:
        raise VlcompressError("no samples to compare the exported model with: give at least one batch")
    rows = {name: len(value) for name, value in samples[0].items()}
    if len(set(rows.values())) > 1:
        raise VlcompressError(
            f"inputs have different numbers of rows ({', '.join(f'{name} {count}' for name, count in rows.items())}): "
            "a model that reads two pictures for each text (ViLT on NLVR2) is not exported yet; use it in PyTorch"
        )
    refuse_nan(model.state_dict())
    require_provider(style.provider)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make a temporary folder beside `folder`, for graphs that are measured and not shipped."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.scratch.", dir=folder.parent))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _write_graphs(
    family: Family,
    model: nn.Module,
    config: Config,
    scratch: Path,
    inputs: Inputs,
    threads: int,
    effort: Effort,
    style: Style,
) -> tuple[dict[str, LayerExport], bool]:
    """Write dense.onnx and, if anything is written anew, lowered.onnx; give every layer's choice."""
    half = style.precision == "fp16"
    graph = trace(family, model, config, opset=style.target.opset, half=half)
    graph.ir_version = style.target.ir_version
    gc.collect()  # the tracer's graphs refer to themselves: from here on only `graph` holds the weights
    packed = sparse_layers(model)
    _write_dense(graph, {name: WrittenLayer(layer.weight) for name, layer in packed.items()}, scratch / "dense.onnx")
    rows = layer_rows(family, model, packed, inputs)
    chooser = Chooser(threads, effort, style.provider, style.precision == "int8")
    layers = {name: _choose(chooser, name, layer.weight, rows[name], half) for name, layer in packed.items()}
    rewriter = Rewriter(graph, style.target.opset, style.precision == "int8")
    rewritten = 0 if half else rewriter.apply({name: _layer(layer, style) for name, layer in layers.items()})
    if style.precision == "int8":
        rewritten += Quantizer(graph, _mostly_packed(graph)).apply()
    if rewritten:
        prune_unused(graph)
        save_apart(graph, scratch / "lowered.onnx")
    del graph, rewriter
    gc.collect()  # likewise: the sessions that are opened next hold the weights again
    return {name: replace(layer, form=None) for name, layer in layers.items()}, bool(rewritten)


def _mostly_packed(graph: ir.Model) -> bool:
    """Tell whether packed nodes hold so much that the other products may as well round row by row."""
    packed = sum(math.prod(node.attributes[side].as_int() for side in "NK") for node in graph.graph if node.domain)
    others = sum(weight.size for node in graph.graph if (weight := constant_weight(node)) is not None)
    return others <= FEW * (packed + others)


def _write_dense(graph: ir.Model, layers: Mapping[str, WrittenLayer], path: Path) -> None:
    """Write the graph with every packed layer as the product of its full weight: what sparse forms are measured
    against."""
    plain = graph.clone()
    Rewriter(plain, graph.opset_imports[""]).apply(layers)
    prune_unused(plain)
    save_apart(plain, path)


def _choose(chooser: Chooser, name: str, weight: SparseWeight, rows: int, half: bool) -> LayerExport:
    if half:
        why = "float16 is for GPUs, where every gather is a launch of its own: the layer stays dense or shrunk"
        return LayerExport(weight, rows, LayerChoice.untested(why), None)
    if not isinstance(weight, BlockSparseWeight):
        why = "2:4 sparsity is not faster in ONNX Runtime: no group of rows leaves out a column"
        return LayerExport(weight, rows, LayerChoice.untested(why), None)
    return LayerExport(weight, rows, *chooser.choose(name, weight, rows))


def _layer(layer: LayerExport, style: Style) -> WrittenLayer:
    groups = _packing(layer) if style.packed else None
    return WrittenLayer(layer.weight, layer.form, groups)


def _packing(layer: LayerExport) -> RowGroups | None:
    """Choose the groups that a packed node stores; None where it would not fit the kernel, or save no bytes."""
    if not isinstance(layer.weight, BlockSparseWeight):
        return None
    groups = layer.form.groups if layer.form is not None else row_panels(layer.weight)
    if groups is None or not packable(groups):
        return None
    worth = layer.form is not None or groups.density <= WORTH_PACKING
    return groups if worth else None


def _faster(scratch: Path, rewritten: bool, inputs: Inputs, threads: int, style: Style) -> tuple[Path, GraphSpeed]:
    """Measure the whole graphs side by side, and the better one with and without SkipLayerNormFusion.

    Int8 is taken even where it is slower: it was asked for, and the figures say what it costs.
    """
    inputs = {name: tensor[:MODEL_SAMPLES] for name, tensor in inputs.items()}
    dense, lowered = scratch / "dense.onnx", scratch / "lowered.onnx"
    graphs: dict[str, Variant] = {"dense": (dense, [SKIP_LAYER_NORM])}
    if rewritten:  # loading packed nodes takes the most memory for a moment: they go before the large dense graph
        graphs = {"lowered, fused": (lowered, []), "lowered": (lowered, [SKIP_LAYER_NORM]), **graphs}
    timings = _race(graphs, inputs, threads, style.provider)
    name = "lowered" if rewritten else "dense"
    if rewritten and timings["lowered"].us > timings["dense"].us * (1 + NOISE) and style.precision != "int8":
        name = "dense"
    if name == "dense":
        again: dict[str, Variant] = {"dense": graphs["dense"], "dense, fused": (dense, [])}
        timings = {**timings, **_race(again, inputs, threads, style.provider)}
    # ONNX Runtime's fused skip-and-normalise kernel is often the slower one, and two sessions of one file differ, too
    disabled = (SKIP_LAYER_NORM,) if timings[name].us <= timings[f"{name}, fused"].us * (1 + NOISE) else ()
    shapes = {key: tuple(tensor.shape) for key, tensor in inputs.items()}
    return scratch / f"{name}.onnx", GraphSpeed(name, timings, disabled, shapes, threads)


def _race(graphs: Mapping[str, Variant], inputs: Inputs, threads: int, provider: str) -> dict[str, Timing]:
    """Time whole graphs in alternation; each is open only for so long, small ones twice: the faster opening counts."""
    calls: dict[str, Callable[[], object]] = {}
    for name, (path, disabled) in graphs.items():
        for at in range(2 if size(path) < SMALL else 1):
            calls[f"{name} #{at}"] = _call(_open(path, threads, provider, disabled), inputs)
    timings = compare(calls, MODEL_EFFORT)
    each = {name: [one for key, one in timings.items() if key.rpartition(" #")[0] == name] for name in graphs}
    return {name: min(of, key=lambda one: one.us) for name, of in each.items()}


def _open(path: Path, threads: int, provider: str, disabled: Sequence[str], native: Native = "off") -> Any:
    """Open a graph as a stock runtime does, unless the native kernel is asked for."""
    skip = SKIP_LAYER_NORM in disabled
    return open_session(path, threads=threads, disable_skip_layer_norm=skip, provider=provider, native=native)


def _native(
    check: Gate, stock: Any, path: Path, style: Style, speed: GraphSpeed, task: tuple[Score | None, float | None]
) -> NativeSpeed | None:
    """Check and time the file with the native kernel too; None if that was not built."""
    if built() is None or style.provider != "cpu":
        return None
    inputs = {name: tensor[:MODEL_SAMPLES] for name, tensor in check.samples[0].items()}
    kind: Native = "int8" if style.precision == "int8" else "float32"
    sessions = {"off": stock, kind: _open(path, speed.threads, style.provider, speed.disabled_optimizers, kind)}
    parities, score = check.parities(sessions[kind]), check.task_score(sessions[kind], *task)
    return NativeSpeed(
        parities, compare({name: _call(one, inputs) for name, one in sessions.items()}, MODEL_EFFORT), score
    )


def _call(session: Any, inputs: Inputs) -> Callable[[], object]:
    arrays = feed(session, inputs)
    return lambda: session.run(None, arrays)


def _specs(values: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Describe a session's inputs or outputs."""
    return tuple(TensorSpec(value.name, value.type, tuple(value.shape)) for value in values)


def _padding(
    family: Family, samples: Sequence[Inputs], buckets: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Name the sizes of every free axis but the batch: those that were asked for, or those of the samples."""
    axes = family.dynamic_axes()
    names = sorted({name for by_axis in axes.values() for name in by_axis.values()} - {"batch"})
    seen = {name: sorted({sample[key].shape[i] for sample in samples for key, i in _at(axes, name)}) for name in names}
    return {name: tuple(buckets.get(name, seen[name])) for name in names}


def _at(axes: Mapping[str, Mapping[int, str]], name: str) -> list[tuple[str, int]]:
    """List the inputs and axes that carry a name."""
    return [(key, axis) for key, by_axis in axes.items() for axis, found in by_axis.items() if found == name]


def _exported(name: str, layer: LayerExport, graph: str) -> ExportedLayer:
    weight, form = layer.weight, layer.choice.picked if graph == "lowered" else "dense"
    block = weight.block if isinstance(weight, BlockSparseWeight) else None
    return ExportedLayer(name, weight.shape, block, 1.0 - weight.density, layer.rows, form, layer.choice)

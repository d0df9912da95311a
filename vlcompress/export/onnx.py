"""ONNX files that are smaller and faster where the ticket allows it, and that were checked before they exist."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from vlcompress.artefacts import Json, seal, write_file, writing
from vlcompress.errors import VlcompressError
from vlcompress.export.choose import choose_form
from vlcompress.export.lowering import Form, lower_layers
from vlcompress.export.runtime import OPSET, SKIP_LAYER_NORM, session_from_bytes
from vlcompress.export.trace import prune_unused, trace
from vlcompress.export.verify import check_graph, feed, parity, refuse_nan, require
from vlcompress.models.base import Config, Family, Head, rows_per_example
from vlcompress.sparse.choice import Choice
from vlcompress.sparse.compile import densified, layer_rows, sparse_layers
from vlcompress.sparse.formats import Bsr
from vlcompress.sparse.timing import EFFORT, Effort, Timing, compare

Inputs = Mapping[str, Tensor]

MODEL_EFFORT = Effort(rounds=7, burst_s=0.02, warmup=1)
"""What whole models are measured with: seconds, not minutes, at the published size."""

NOISE = 0.02
"""Whole models within this share of each other count as equally fast; the lowered one then has the smaller file."""


@dataclass(frozen=True)
class LayerExport:
    """How one packed layer was written: its choice in ONNX Runtime, and the form (None for dense)."""

    bsr: Bsr
    rows: int
    choice: Choice
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
    buckets: Mapping[str, Sequence[int]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Json:
    """Write the artefact ``onnx/``: model.onnx, labels.txt, manifest.json.

    Packed layers are written as row groups where ONNX Runtime, on this machine, is at least 5 % faster with that, and
    dense elsewhere; if the whole model is slower for it, all of it stays dense. Nothing is left behind if a check
    fails.

    Args:
        family: the model's family.
        model: a dense, masked or compiled model on the CPU; it is the truth that the file is compared with.
        folder: where; replaced if it exists.
        samples: batches of real inputs for the parity check; the first one's shape is what the file is tuned for.
        config: the model's configuration.
        head: its head; the labels go into labels.txt, one a line, in the order of the scores.
        threads: threads of ONNX Runtime while measuring.
        effort: how long to measure each layer.
        buckets: sizes to which a server should pad each axis ("text": [14]); by default those of the samples.
        extra: JSON to keep in the manifest (identity of the ticket, versions).

    Returns:
        The manifest.

    Raises:
        VerificationError: invalid ONNX, or scores that differ from the PyTorch model's.
        VlcompressError: a weight that is NaN, no samples, or a folder that cannot be written.
    """
    if not samples:
        raise VlcompressError("no samples to compare the exported model with: give at least one batch")
    refuse_nan(model.state_dict())
    model.eval()
    dense, lowered, layers = _graphs(family, model, config, samples[0], threads, effort)
    data, speed = _faster(dense, lowered, samples[0], threads)
    check_graph(data)
    session = session_from_bytes(data, threads=threads)
    on_samples = parity(family, model, session, samples)
    on_shapes = parity(family, model, session, _odd_shapes(family, config, head))
    for result in (on_samples, on_shapes):
        require(result, "the exported model differs from the PyTorch model, so nothing was written")
    manifest = {
        **(extra or {}),
        **_description(family, session, samples, buckets),
        "layers": [_layer_json(name, layer, speed["picked"]) for name, layer in layers.items()],
        "parity": {"samples": asdict(on_samples), "random shapes": asdict(on_shapes)},
        "speed": {**speed, "threads": threads, "inputs": _shapes(samples[0])},
        "bytes": {"model": len(data), "dense": len(dense)},
    }
    _write(folder, data, head, manifest)
    return manifest


def _graphs(
    family: Family, model: nn.Module, config: Config, inputs: Inputs, threads: int, effort: Effort
) -> tuple[bytes, bytes | None, dict[str, LayerExport]]:
    """Give the serialised dense graph, the lowered one (None if no layer changes), and every layer's choice."""
    plain = densified(model)
    graph = trace(family, plain, config)
    dense = _serialised(graph)
    packed = sparse_layers(model)
    rows = layer_rows(family, plain, packed, inputs)
    layers = {name: _choose(layer.bsr, rows[name], threads, effort) for name, layer in packed.items()}
    picked = {name: (layer.bsr, layer.form) for name, layer in layers.items() if layer.form is not None}
    if not picked or not lower_layers(graph, picked):
        return dense, None, layers
    prune_unused(graph)
    return dense, _serialised(graph), layers


def _choose(bsr: Bsr, rows: int, threads: int, effort: Effort) -> LayerExport:
    if rows == 0:
        choice = Choice.untested("the answers do not depend on the layer: it is not in the file")
        return LayerExport(bsr, rows, choice, None)
    return LayerExport(bsr, rows, *choose_form(bsr, rows=rows, threads=threads, effort=effort))


def _faster(dense: bytes, lowered: bytes | None, inputs: Inputs, threads: int) -> tuple[bytes, Json]:
    """Measure the whole graphs side by side, with and without SkipLayerNormFusion; keep lowered unless it is slower."""
    graphs = {"dense": dense} if lowered is None else {"dense": dense, "lowered": lowered}
    sessions = {
        (name, fused): session_from_bytes(graph, threads=threads, disable_skip_layer_norm=not fused)
        for name, graph in graphs.items()
        for fused in (False, True)
    }
    calls = {f"{name}{', fused' if fused else ''}": _call(s, inputs) for (name, fused), s in sessions.items()}
    timings = compare(calls, MODEL_EFFORT)
    slower = lowered is None or timings["lowered"].us > timings["dense"].us * (1 + NOISE)
    picked = "dense" if slower else "lowered"
    return graphs[picked], {
        "picked": picked,
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "disabled_optimizers": _advice(timings[picked], timings[f"{picked}, fused"]),
    }


def _advice(unfused: Timing, fused: Timing) -> list[str]:
    """Name the optimizers to switch off: ONNX Runtime's fused skip-and-normalise kernel is often the slower one."""
    return [SKIP_LAYER_NORM] if unfused.us <= fused.us else []


def _call(session: Any, inputs: Inputs) -> Any:
    arrays = feed(session, inputs)
    return lambda: session.run(None, arrays)


def _odd_shapes(family: Family, config: Config, head: Head) -> list[dict[str, Tensor]]:
    """Make inputs of sizes that the tracer did not see, the smallest ones among them."""
    sizes = ((1, 1, 1), (2, 5, 9), (5, 9, 2))
    rows = rows_per_example(head)
    return [family.example_inputs(config, batch=b * rows, text=t, regions=r, seed=b) for b, t, r in sizes]


def _description(
    family: Family, session: Any, samples: Sequence[Inputs], buckets: Mapping[str, Sequence[int]] | None
) -> Json:
    axes = family.dynamic_axes()
    inputs = [
        {"name": argument.name, "type": argument.type, "shape": argument.shape} for argument in session.get_inputs()
    ]
    outputs = [{"name": value.name, "type": value.type, "shape": value.shape} for value in session.get_outputs()]
    names = sorted({name for by_axis in axes.values() for name in by_axis.values()} - {"batch"})
    seen = {name: sorted({sample[key].shape[i] for sample in samples for key, i in _at(axes, name)}) for name in names}
    padding = {name: list((buckets or {}).get(name, seen[name])) for name in names}
    return {"family": family.name, "opset": OPSET, "inputs": inputs, "outputs": outputs, "padding": padding}


def _at(axes: Mapping[str, Mapping[int, str]], name: str) -> list[tuple[str, int]]:
    """List the inputs and axes that carry a name."""
    return [(key, axis) for key, by_axis in axes.items() for axis, found in by_axis.items() if found == name]


def _layer_json(name: str, layer: LayerExport, graph: str) -> Json:
    form = layer.choice.picked if graph == "lowered" else "dense"
    return {
        "name": name,
        "shape": layer.bsr.shape,
        "block": layer.bsr.block,
        "sparsity": 1.0 - layer.bsr.density,
        "rows": layer.rows,
        "form": form,
        "choice": layer.choice.to_json(),
    }


def _shapes(inputs: Inputs) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in inputs.items()}


def _serialised(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _write(folder: Path, data: bytes, head: Head, manifest: Json) -> None:
    with writing(folder) as temporary:
        write_file(temporary / "model.onnx", data)
        write_file(temporary / "labels.txt", "".join(f"{label}\n" for label in head.labels))
        seal(temporary, "manifest.json", manifest)

"""Single layers of a model, randomly pruned, as ONNX Runtime runs them one at a time.

Letters: a weight is [N, K]; M rows of activations go through it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlcompress.bench.break_even import break_even
from vlcompress.bench.profile_onnx import NATIVE, SHRUNK, STANDARD, native_layers, whole
from vlcompress.bench.random_masks import UNITS, side, weight_mask
from vlcompress.export.choose import Chooser, one_layer
from vlcompress.export.parity import Floats, compare_scores, require
from vlcompress.export.runtime import session_from_bytes
from vlcompress.kernels.formats import pack_masked
from vlcompress.pruning.mixture import LAYER
from vlcompress.results import LayerForm, LayerPoint, LayerProfile
from vlcompress.sparse.timing import Effort, compare

Shape = tuple[int, int]

LAYER_EFFORT = Effort(rounds=5, burst_s=0.01, warmup=1)


def measure_layers(
    model: nn.Module,
    rows: Mapping[str, int],
    patterns: Sequence[str],
    sparsities: Sequence[float],
    chooser: Chooser,
    say: Callable[[str], None],
) -> list[LayerProfile]:
    """Measure one layer of each shape.

    Args:
        model: gives the shapes.
        rows: M by canonical weight name; a shape is measured at the most that any of its weights sees.
        patterns: as `read_pattern` gives them.
        sparsities: in (0, 1).
        chooser: picks the form in standard operators.
        say: tells progress.

    Raises:
        VerificationError: a form that computes something else.
    """
    shapes: dict[Shape, int] = {}
    for name, count in rows.items():
        outputs, inputs = model.get_parameter(name).shape
        shape = (outputs, inputs)
        shapes[shape] = max(shapes.get(shape, 0), count)
    found = []
    for pattern in patterns:
        if pattern == LAYER:  # goes whole: nothing of it is left to be timed
            continue
        for shape, count in sorted(shapes.items()):
            say(f"{pattern}: a layer {shape[0]}x{shape[1]} on {count} rows")
            points = [_point(pattern, shape, count, sparsity, chooser) for sparsity in sparsities]
            found.append(LayerProfile(pattern, shape, count, tuple(points), _break_even(points)))
    return found


def _point(pattern: str, shape: Shape, rows: int, sparsity: float, chooser: Chooser) -> LayerPoint:
    random = torch.Generator().manual_seed(0)
    weight_NK = torch.randn(shape, generator=random)
    if pattern in UNITS:
        graphs = {"dense": _dense(weight_NK), SHRUNK: _dense(_without_units(weight_NK, sparsity))}
        return _timed(graphs, {}, sparsity, rows, chooser)
    mask = weight_mask(pattern, "of the model", weight_NK.shape, sparsity, random)
    weight = pack_masked(weight_NK, mask, side(pattern))
    choice, form = chooser.choose(f"{shape} {pattern} {sparsity}", weight, rows)
    graphs, how = {"dense": one_layer(weight, None)}, {}
    if form is not None:
        graphs[STANDARD], how[STANDARD] = one_layer(weight, form), choice.picked
    packed = native_layers({"layer": weight}) if chooser.provider == "cpu" else {}
    if packed:
        graphs[NATIVE] = one_layer(weight, None, packed["layer"].panels)
    return _timed(graphs, how, sparsity, rows, chooser)


def _dense(weight_NK: Tensor) -> bytes:
    """Write the graph of a layer without zeros: one block that is all there."""
    return one_layer(whole(weight_NK), None)


def _without_units(weight_NK: Tensor, sparsity: float) -> Tensor:
    """Remove rows, or columns where there are more of those: the side that the units of a wide layer are on."""
    axis = 1 if weight_NK.shape[1] > weight_NK.shape[0] else 0
    return weight_NK.narrow(axis, 0, max(1, round(weight_NK.shape[axis] * (1 - sparsity)))).contiguous()


def _timed(
    graphs: Mapping[str, bytes], how: Mapping[str, str], sparsity: float, rows: int, chooser: Chooser
) -> LayerPoint:
    """Check the forms of a layer against its dense graph, and measure them side by side."""
    sessions = {
        form: session_from_bytes(graph, threads=chooser.threads, provider=chooser.provider)
        for form, graph in graphs.items()
    }
    x_1MK = np.random.default_rng(0).standard_normal((1, rows, _width(sessions["dense"])), dtype=np.float32)
    calls = {form: _call(session, x_1MK[..., : _width(session)]) for form, session in sessions.items()}
    truth = calls["dense"]()[0]
    for form in graphs.keys() - {"dense", SHRUNK}:  # a smaller layer is a dense one
        require(compare_scores([truth], [calls[form]()[0]]), f"'{form}' of a layer does not compute what it should")
    timings = compare(calls, LAYER_EFFORT)
    dense = timings.pop("dense").us
    forms = {form: LayerForm(one.us, round(dense / one.us, 3), how.get(form)) for form, one in timings.items()}
    return LayerPoint(sparsity, dense, forms)


def _call(session: Any, x_1MK: Floats) -> Callable[[], list[Floats]]:
    feed = {"x": np.ascontiguousarray(x_1MK)}
    return lambda: session.run(None, feed)


def _width(session: Any) -> int:
    return int(session.get_inputs()[0].shape[-1])


def _break_even(points: Sequence[LayerPoint]) -> dict[str, float | None]:
    dense = float(np.median([point.dense_us for point in points]))
    times = {
        form: {point.sparsity: point.forms[form].us for point in points if form in point.forms}
        for form in sorted({form for point in points for form in point.forms})
    }
    return {form: break_even(dense, found) for form, found in times.items()}

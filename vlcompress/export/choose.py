"""Pick the fastest way to write one layer, by running one-layer graphs in ONNX Runtime on this machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vlcompress.export.lowering import Form, Kind, Merge, form_of, forms
from vlcompress.export.quantize import Quantizer
from vlcompress.export.rewrite import Rewriter, WrittenLayer, emitted
from vlcompress.export.runtime import IR_VERSION, OPSET, session_from_bytes
from vlcompress.kernels.formats import BlockSparseWeight
from vlcompress.kernels.grouped import RowGroups
from vlcompress.sparse.choice import LayerChoice, measure_and_choose
from vlcompress.sparse.timing import Call, Effort

DENSITY_STEP = 0.05
"""Layers of about one shape, of one block and number of rows, whose densities differ by less share a measurement."""

SIDE_STEP = 1.25
"""Sides of weights that differ by a smaller factor are alike: removed neurons leave every layer a size of its own."""

LayerKey = tuple[int, int, tuple[int, int], int, int]
Writing = tuple[Kind, Merge]


@dataclass
class Chooser:
    """Chooses forms for the layers of a model; layers that are alike are measured once.

    Attributes:
        threads: threads of each session.
        provider: where to measure ("cpu", "cuda").
        effort: how long to measure a layer.
        int8: compare the forms as dynamically quantised products.
        known: what was measured, by rounded shape, block, rows and rounded density: the layer, its choice, how it is
            written.
    """

    threads: int
    effort: Effort
    provider: str = "cpu"
    int8: bool = False
    known: dict[LayerKey, tuple[str, LayerChoice, Writing | None]] = field(default_factory=dict)

    def choose(self, name: str, weight: BlockSparseWeight, rows: int) -> tuple[LayerChoice, Form | None]:
        """Compare every form of a layer with its dense MatMul, or take over the choice of a layer that is alike.

        Args:
            name: of the layer, for the record.
            weight: the weight.
            rows: rows M of the activations it will see (batch x tokens); 0 for a layer that never runs.

        Returns:
            The choice with all timings, and the form it picked (None for dense).
        """
        if rows == 0:
            return LayerChoice.untested("the answers do not depend on the layer: it is not in the file"), None
        key = (_step(weight.shape[0]), _step(weight.shape[1]), weight.block, rows, round(weight.density / DENSITY_STEP))
        if key in self.known:
            return _as_measured(*self.known[key], weight, rows)
        candidates = self._candidates(weight, rows)
        if not candidates:
            return LayerChoice.untested(_why_none(weight)), None
        choice = self._measure(weight, rows, candidates)
        form = candidates.get(choice.picked)
        self.known[key] = (name, choice, None if form is None else (form.kind, form.merge))
        return choice, form

    def _candidates(self, weight: BlockSparseWeight, rows: int) -> dict[str, Form]:
        found = forms(weight, rows)
        if self.int8:  # MatMulInteger takes no transposed input
            return {name: form for name, form in found.items() if form.kind == "gather"}
        return found

    def _measure(self, weight: BlockSparseWeight, rows: int, candidates: Mapping[str, Form]) -> LayerChoice:
        x_MK = np.random.default_rng(0).standard_normal((1, rows, weight.shape[1]), dtype=np.float32)
        graphs = {"dense": None, **candidates}
        calls = {name: self._call(one_layer(weight, form, int8=self.int8), x_MK) for name, form in graphs.items()}
        return measure_and_choose(calls, self.effort)

    def _call(self, model: bytes, x_MK: npt.NDArray[np.float32]) -> Call:
        session = session_from_bytes(model, threads=self.threads, provider=self.provider)
        feed: Mapping[str, npt.NDArray[np.float32]] = {"x": x_MK}
        return lambda: session.run(None, feed)


def _step(side: int) -> int:
    return round(math.log(side, SIDE_STEP))


def _as_measured(
    measured: str, choice: LayerChoice, writing: Writing | None, weight: BlockSparseWeight, rows: int
) -> tuple[LayerChoice, Form | None]:
    """Carry a choice over to a layer that is alike: the same kind of form, with this layer's own groups."""
    why = f"as for {measured}, which is alike: {choice.why}"
    if writing is None:
        return replace(choice, why=why), None
    form = form_of(weight, rows, *writing)
    if form is None:
        return LayerChoice.untested(f"{why}; but this layer has no such form"), None
    return replace(choice, picked=form.name, why=why), form


def one_layer(
    weight: BlockSparseWeight, form: Form | None, panels: RowGroups | None = None, *, int8: bool = False
) -> bytes:
    """Build a model x [1, M, K] -> y [1, M, N] of one layer without a bias.

    Args:
        weight: [N, K].
        form: row groups in standard operators; None for the dense product.
        panels: what a packed node stores; None for standard operators.
        int8: quantise what came of it.
    """
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=(1, "rows", weight.shape[1]))
    node = emitted("layer", x, weight.shape[0])
    node.outputs[0].name = "y"
    model = ir.Model(
        ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": OPSET}, name="layer"), ir_version=IR_VERSION
    )
    Rewriter(model, OPSET, int8).apply({"layer": WrittenLayer(weight, form, panels)})
    if int8:
        Quantizer(model).apply()
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _why_none(weight: BlockSparseWeight) -> str:
    if weight.block == (1, 1):
        return "the mask is unstructured: no group of rows leaves out a column, and zeros cost as much as weights"
    return "no row group leaves out enough columns to be faster than dense"

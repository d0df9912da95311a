"""Pick the fastest way to write one layer, by running one-layer graphs in ONNX Runtime on this machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vlcompress.export.lowering import Constants, Form, Kind, Merge, Writer, form_of, forms, lower
from vlcompress.export.quantize import Quantizer
from vlcompress.export.runtime import IR_VERSION, OPSET, session_from_bytes
from vlcompress.sparse.choice import Choice, measure_and_choose
from vlcompress.sparse.formats import Bsr, to_dense
from vlcompress.sparse.timing import Call, Effort

DENSITY_STEP = 0.05
"""Layers of about one shape, of one block and number of rows, whose densities differ by less share a measurement."""

SIDE_STEP = 1.25
"""Sides of weights that differ by a smaller factor are alike: removed neurons leave every layer a size of its own."""

Kindred = tuple[int, int, tuple[int, int], int, int]
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
    known: dict[Kindred, tuple[str, Choice, Writing | None]] = field(default_factory=dict)

    def choose(self, name: str, bsr: Bsr, rows: int) -> tuple[Choice, Form | None]:
        """Compare every form of a layer with its dense MatMul, or take over the choice of a layer that is alike.

        Args:
            name: of the layer, for the record.
            bsr: the weight.
            rows: rows M of the activations it will see (batch x tokens); 0 for a layer that never runs.

        Returns:
            The choice with all timings, and the form it picked (None for dense).
        """
        if rows == 0:
            return Choice.untested("the answers do not depend on the layer: it is not in the file"), None
        key = (_step(bsr.shape[0]), _step(bsr.shape[1]), bsr.block, rows, round(bsr.density / DENSITY_STEP))
        if key in self.known:
            return _as_measured(*self.known[key], bsr, rows)
        candidates = self._candidates(bsr, rows)
        if not candidates:
            return Choice.untested(_why_none(bsr)), None
        choice = self._measure(bsr, rows, candidates)
        form = candidates.get(choice.picked)
        self.known[key] = (name, choice, None if form is None else (form.kind, form.merge))
        return choice, form

    def _candidates(self, bsr: Bsr, rows: int) -> dict[str, Form]:
        found = forms(bsr, rows)
        if self.int8:  # MatMulInteger takes no transposed input
            return {name: form for name, form in found.items() if form.kind == "gather"}
        return found

    def _measure(self, bsr: Bsr, rows: int, candidates: Mapping[str, Form]) -> Choice:
        x_MK = np.random.default_rng(0).standard_normal((1, rows, bsr.shape[1]), dtype=np.float32)
        graphs = {"dense": None, **candidates}
        calls = {name: self._call(one_layer(bsr, form, int8=self.int8), x_MK) for name, form in graphs.items()}
        return measure_and_choose(calls, self.effort)

    def _call(self, model: bytes, x_MK: npt.NDArray[np.float32]) -> Call:
        session = session_from_bytes(model, threads=self.threads, provider=self.provider)
        feed: Mapping[str, npt.NDArray[np.float32]] = {"x": x_MK}
        return lambda: session.run(None, feed)


def _step(side: int) -> int:
    return round(math.log(side, SIDE_STEP))


def _as_measured(
    measured: str, choice: Choice, writing: Writing | None, bsr: Bsr, rows: int
) -> tuple[Choice, Form | None]:
    """Carry a choice over to a layer that is alike: the same kind of form, with this layer's own groups."""
    why = f"as for {measured}, which is alike: {choice.why}"
    if writing is None:
        return replace(choice, why=why), None
    form = form_of(bsr, rows, *writing)
    if form is None:
        return Choice.untested(f"{why}; but this layer has no such form"), None
    return replace(choice, picked=form.name, why=why), form


def one_layer(bsr: Bsr, form: Form | None, *, int8: bool = False) -> bytes:
    """Build a model x [1, M, K] -> y [1, M, N] of one layer, dense where `form` is None."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=(1, "rows", bsr.shape[1]))
    to = Writer()
    if form is None:
        y = to.op("MatMul", [x, to.constant("weight", to_dense(bsr).T.contiguous().numpy())])
    else:
        y = lower(to, x, form.kind, form.access, Constants(to, form, "layer"))
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape((1, "rows", bsr.shape[0]))
    graph = ir.Graph(
        [x], [y], nodes=to.tape.nodes, initializers=[*to.constants.values()], opset_imports={"": OPSET}, name="layer"
    )
    model = ir.Model(graph, ir_version=IR_VERSION)
    if int8:
        Quantizer(model).apply()
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _why_none(bsr: Bsr) -> str:
    if bsr.block == (1, 1):
        return "the mask is unstructured: no group of rows leaves out a column, and zeros cost as much as weights"
    return "no row group leaves out enough columns to be faster than dense"

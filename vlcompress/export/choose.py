"""Pick the fastest way to write one layer, by running one-layer graphs in ONNX Runtime on this machine."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vlcompress.export.lowering import Form, Writer, forms, lower
from vlcompress.export.runtime import OPSET, session_from_bytes
from vlcompress.sparse.choice import Choice, measure_and_choose
from vlcompress.sparse.formats import Bsr, to_dense
from vlcompress.sparse.timing import Call, Effort


def choose_form(bsr: Bsr, *, rows: int, threads: int, effort: Effort) -> tuple[Choice, Form | None]:
    """Measure every form of a layer against its dense MatMul.

    Args:
        bsr: the weight.
        rows: rows M of the activations it will see (batch x tokens).
        threads: threads of each session.
        effort: how long to measure.

    Returns:
        The choice with all timings, and the form it picked (None for dense).
    """
    candidates = forms(bsr)
    if not candidates:
        return Choice.untested("no row group leaves out enough columns to be faster than dense"), None
    x_MK = np.random.default_rng(0).standard_normal((1, rows, bsr.shape[1]), dtype=np.float32)
    graphs = {"dense": one_layer(bsr, None)} | {name: one_layer(bsr, form) for name, form in candidates.items()}
    choice = measure_and_choose({name: _call(graph, x_MK, threads) for name, graph in graphs.items()}, effort)
    return choice, candidates.get(choice.picked)


def one_layer(bsr: Bsr, form: Form | None) -> bytes:
    """Build a model x [1, M, K] -> y [1, M, N] of one layer, dense where `form` is None."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=(1, "rows", bsr.shape[1]))
    to = Writer()
    if form is None:
        y = to.op("MatMul", [x, to.constant("weight", to_dense(bsr).T.contiguous().numpy())])
    else:
        y = lower(to, x, form, "layer")
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape((1, "rows", bsr.shape[0]))
    graph = ir.Graph(
        [x], [y], nodes=to.tape.nodes, initializers=[*to.constants.values()], opset_imports={"": OPSET}, name="layer"
    )
    data: bytes = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return data


def _call(model: bytes, x_MK: npt.NDArray[np.float32], threads: int) -> Call:
    session = session_from_bytes(model, threads=threads)
    feed: Mapping[str, npt.NDArray[np.float32]] = {"x": x_MK}
    return lambda: session.run(None, feed)

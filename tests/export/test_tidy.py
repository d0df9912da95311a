"""Tidying: what does nothing goes, what does something stays, and the graph is not kept alive."""

import gc
import weakref
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from vlcompress.export.runtime import IR_VERSION, OPSET, session_from_bytes
from vlcompress.export.tidy import tidy
from vlcompress.export.trace import trace

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
END = np.iinfo(np.int64).max


def graph_of(*steps: tuple[str, list[Any], dict[str, Any]]) -> ir.Model:
    """Make a chain of operators x -> y; each step names its operator, constant inputs and attributes."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=X.shape)
    tape, value = ir.tape.Tape(), x
    for kind, constants, attributes in steps:
        inputs = [tape.op("Constant", [], {"value": ir.tensor(np.array(one))}) for one in constants]
        value = tape.op(kind, [value, *inputs], attributes)
    y = tape.op("Neg", [value])
    y.name, y.dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph([x], [y], nodes=tape.nodes, opset_imports={"": OPSET}, name="chain")
    return ir.Model(graph, ir_version=IR_VERSION)


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([("Slice", [[0], [END], [1], [1]], {})], []),
        ([("Slice", [[0, 0], [END, END], [0, 2], [1, 1]], {})], []),
        ([("Slice", [[1], [END], [1], [1]], {})], ["Slice"]),
        ([("Slice", [[0], [END], [1], [2]], {})], ["Slice"]),
        ([("Slice", [[0], [2], [1]], {})], ["Slice"]),
        ([("Transpose", [], {"perm": [1, 0, 2]}), ("Transpose", [], {"perm": [0, 2, 1]})], ["Transpose"]),
        ([("Transpose", [], {"perm": [1, 2, 0]}), ("Transpose", [], {"perm": [2, 0, 1]})], []),
        ([("Transpose", [], {"perm": [2, 1, 0]})], ["Transpose"]),
    ],
)
def test_only_nodes_that_do_nothing_go(steps: list[Any], left: list[str]) -> None:
    model = graph_of(*steps)
    before = ir.to_proto(model).SerializeToString()
    tidy(model)
    assert [node.op_type for node in model.graph] == [*left, "Neg"]
    after = ir.to_proto(model).SerializeToString()
    was, now = (session_from_bytes(data, threads=1).run(None, {"x": X})[0] for data in (before, after))
    np.testing.assert_array_equal(was, now)


def test_a_traced_graph_goes_when_nobody_holds_it(ticket_of: Any) -> None:
    ticket = ticket_of((16, 16), 0.4)
    graph = trace(ticket.family, ticket.model, ticket.config)
    there = weakref.ref(graph.graph)
    del graph
    gc.collect()
    assert there() is None

"""What the exporter writes, made smaller: constants folded, equal nodes made one, nodes that do nothing taken out."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

_END = np.iinfo(np.int64).max
"""Slices to here go to the end."""


def tidy(model: ir.Model) -> None:
    """Tidy a graph in place.

    The exporter's own optimiser does this, and tries a hundred rewrite rules besides. Few of them fit these models,
    they take most of its time, and they keep the graph, with all of its weights, for as long as the process lives.
    """
    from onnxscript.optimizer import fold_constants

    passes.InlinePass()(model)
    fold_constants(model, onnx_shape_inference=True)
    prune_unused(model)
    for step in (
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        step(model)
    for node in list(model.graph):
        _RULES.get(node.op_type, _keep)(model.graph, node)
    prune_unused(model)


def prune_unused(model: ir.Model) -> None:
    """Drop nodes and initialisers that nothing reads."""
    passes.RemoveUnusedNodesPass()(model)


def _keep(graph: ir.Graph, node: ir.Node) -> None:
    """Leave a node as it is."""


def _drop_whole_slice(graph: ir.Graph, node: ir.Node) -> None:
    """Take out a Slice of everything, which PyTorch's ``x[:, ...]`` leaves."""
    data, begin, end = node.inputs[0], _ints(node.inputs[1]), _ints(node.inputs[2])
    step = _ints(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if data is None or begin is None or end is None or step is None:
        return
    if not any(begin) and {*end} == {_END} and {*step} == {1}:
        _bypass(graph, node, data)


def _join_transposes(graph: ir.Graph, node: ir.Node) -> None:
    """Turn the source of a Transpose at once the whole way: attention turns its keys twice."""
    before = None if node.inputs[0] is None else node.inputs[0].producer()
    if before is None or before.op_type != "Transpose" or before.inputs[0] is None:
        return
    if not ("perm" in before.attributes and "perm" in node.attributes):
        return
    first, second = before.attributes.get_ints("perm"), node.attributes.get_ints("perm")
    order = [first[axis] for axis in second]
    if order == sorted(order):
        _bypass(graph, node, before.inputs[0])
        return
    node.replace_input_with(0, before.inputs[0])
    node.attributes["perm"] = ir.AttrInt64s("perm", order)


def _bypass(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    if not node.outputs[0].is_graph_output():
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)


def _ints(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(one) for one in value.const_value.numpy().reshape(-1)]


_RULES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {"Slice": _drop_whole_slice, "Transpose": _join_transposes}

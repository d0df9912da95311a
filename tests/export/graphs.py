"""A small graph with the ways in which the exporter writes a linear layer."""

import onnx_ir as ir
from torch import Tensor

from vlcompress.export.target import OPSET
from vlcompress.kernels.formats import BlockSparseWeight
from vlcompress.kernels.linear import EMITTED


def exporter_like_graph(weight: Tensor, bias: Tensor) -> ir.Model:
    """Make a graph with one weight [N, K] used four times.

    As MatMul, as MatMul + bias + Gelu, as MatMul of a transposed initialiser, and as Gemm with a bias.
    """
    outputs, width = weight.shape
    x, flat = (
        ir.val(name, dtype=ir.DataType.FLOAT, shape=shape)
        for name, shape in (("x", ("b", "t", width)), ("f", ("b", width)))
    )
    turned = ir.val("turned", const_value=ir.tensor(weight.T.contiguous().numpy(), name="turned"))
    plain = ir.val("plain", const_value=ir.tensor(weight.numpy(), name="plain"))
    shift = ir.val("shift", const_value=ir.tensor(bias.numpy(), name="shift"))
    matmul = ir.node("MatMul", [x, turned])
    biased = ir.node("MatMul", [x, turned])
    add = ir.node("Add", [biased.outputs[0], shift])
    gelu = ir.node("Gelu", [add.outputs[0]])
    transpose = ir.node("Transpose", [plain], {"perm": [1, 0]})
    turned_product = ir.node("MatMul", [x, transpose.outputs[0]])
    gemm = ir.node("Gemm", [flat, plain, shift], {"transB": 1})
    nodes = [matmul, biased, add, gelu, transpose, turned_product, gemm]
    for node in (matmul, biased, add, gelu, turned_product, gemm):
        value = node.outputs[0]
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(("b", outputs) if node is gemm else ("b", "t", outputs))
    results = [node.outputs[0] for node in (matmul, gelu, turned_product, gemm)]
    for i, value in enumerate(results):
        value.name = f"y{i}"
    graph = ir.Graph(
        [x, flat], results, nodes=nodes, initializers=[turned, plain, shift], opset_imports={"": OPSET}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def emitted_graph(weight: BlockSparseWeight, bias: Tensor) -> ir.Model:
    """Make the same graph with the nodes that a packed layer emits: four uses of "layer.weight"."""
    outputs, width = weight.shape
    x, flat = (
        ir.val(name, dtype=ir.DataType.FLOAT, shape=shape)
        for name, shape in (("x", ("b", "t", width)), ("f", ("b", width)))
    )
    parts = {"values": weight.values, "crow": weight.pattern.crow, "col": weight.pattern.col, "bias": bias}
    stored = {name: ir.val(name, const_value=ir.tensor(part.numpy(), name=name)) for name, part in parts.items()}
    plain, biased, again, last = (
        _emitted(source, stored, outputs, with_bias)
        for source, with_bias in ((x, False), (x, True), (x, False), (flat, True))
    )
    gelu = ir.node("Gelu", [biased.outputs[0]])
    gelu.outputs[0].dtype, gelu.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(("b", "t", outputs))
    results = [node.outputs[0] for node in (plain, gelu, again, last)]
    for i, value in enumerate(results):
        value.name = f"y{i}"
    nodes = [plain, biased, gelu, again, last]
    imports = {"": OPSET, EMITTED.split("::")[0]: 1}
    graph = ir.Graph([x, flat], results, nodes=nodes, initializers=[*stored.values()], opset_imports=imports, name="g")
    return ir.Model(graph, ir_version=10)


def _emitted(x: ir.Value, stored: dict[str, ir.Value], outputs: int, with_bias: bool) -> ir.Node:
    domain, kind = EMITTED.split("::")
    inputs = [x, stored["values"], stored["crow"], stored["col"], *([stored["bias"]] if with_bias else [])]
    node = ir.node(kind, inputs, {"weight": "layer.weight", "bias": int(with_bias)}, domain=domain)
    assert x.shape is not None
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape((*x.shape[:-1], outputs))
    return node

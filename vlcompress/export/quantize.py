"""Dynamic int8: products with constant weights as MatMulInteger, in the operators that ONNX Runtime fuses.

Weights are int8, symmetric, one scale for each output; activations are uint8 with one scale and zero point for each
tensor, found when it runs (DynamicQuantizeLinear). Measured: QUInt8 weights lose more than half of the speed. A scale
for each row takes more operators, and makes a product about half as fast (bench/results/onnx/README.md).
"""

from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vlcompress.export.lowering import Writer
from vlcompress.export.native.library import round_weight
from vlcompress.export.rewrite import replace_nodes
from vlcompress.export.tidy import prune_unused

Floats = npt.NDArray[np.float32]

LEAST_WEIGHTS = 1 << 10
"""Smaller products stay float32: quantising their input costs as much as it saves."""

_MOVES = ("Reshape", "Gather", "Slice")
"""Operators that only move elements, so that they may as well move bytes."""


@dataclass
class Quantizer:
    """Rewrites the products of one model.

    Attributes:
        model: changed in place.
        by_rows: round activations by a scale for each row, so that no row's answer depends on the others.
        constants: new initialisers by name.
        quantised: for each float value, its bytes, scale and zero point.
    """

    model: ir.Model
    by_rows: bool = False
    constants: dict[str, ir.Value] = field(default_factory=dict)
    quantised: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = field(default_factory=dict)

    def apply(self) -> int:
        """Rewrite every MatMul or Gemm with a constant weight [K, N]; give how many there were.

        An input is quantised once, however many products read it, and before its columns are gathered: moving bytes
        costs a quarter of moving floats.
        """
        rewritten = 0
        for node in list(self.model.graph):
            weight = constant_weight(node)
            if weight is not None and weight.size >= LEAST_WEIGHTS:
                self._rewrite(node, weight.astype(np.float32, copy=False))
                rewritten += 1
        for value in self.constants.values():
            self.model.graph.register_initializer(value)
        prune_unused(self.model)
        return rewritten

    def _rewrite(self, node: ir.Node, weight_KN: Floats) -> None:
        x, stored = node.inputs[0], node.inputs[1]
        assert x is not None, "MatMul and Gemm have a first input"
        assert stored is not None, "its weight is constant"
        to = Writer(constants=self.constants)
        values, scales = round_weight(weight_KN.T)
        data, scale, zero = self._bytes(to, x)
        product = to.op("MatMulInteger", [data, to.constant(self._own(f"{stored.name}.int8"), values.T.copy()), zero])
        sums, weights = to.op("Cast", [product], {"to": int(ir.DataType.FLOAT)}), f"{stored.name}.scale"
        if self.by_rows:  # ONNX Runtime would fuse the other order, and take the first row's scale for all
            y = to.op("Mul", [to.op("Mul", [sums, to.constant(weights, scales)]), scale])
        else:
            y = to.op("Mul", [sums, to.op("Mul", [scale, to.constant(weights, scales)])])
        if len(node.inputs) == 3:
            y = to.op("Add", [y, node.inputs[2]])
        replace_nodes(self.model.graph, (node,), to, node.outputs[0], y)

    def _own(self, name: str) -> str:
        """Name a product's own copy of a weight.

        On processors that need it, ONNX Runtime makes each product's weight unsigned, and fails where two share one.
        """
        return next(one for at in count(1) if (one := name if at == 1 else f"{name}.{at}") not in self.constants)

    def _bytes(self, to: Writer, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Write x as uint8 of its shape, with scale and zero point."""
        if x not in self.quantised:
            source = x.producer()
            if self.by_rows:
                self.quantised[x] = _rounded_rows(to, x)
            elif source is not None and source.op_type in _MOVES and source.inputs[0] is not None:
                data, scale, zero = self._bytes(to, source.inputs[0])
                moved = to.op(source.op_type, [data, *source.inputs[1:]], source.attributes)
                self.quantised[x] = (moved, scale, zero)
            else:
                made = to.tape.op_multi_out("DynamicQuantizeLinear", [x], num_outputs=3)
                self.quantised[x] = (made[0], made[1], made[2])
        return self.quantised[x]


def _rounded_rows(to: Writer, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Write x [..., K] as uint8 around 128, with the scale of each row [..., 1] and the zero point."""
    largest = to.op("ReduceMax", [to.op("Abs", [x]), to.ints([-1])], {"keepdims": 1})
    least = to.constant("rows.least", np.array(1e-30, np.float32))
    scale = to.op("Div", [to.op("Max", [largest, least]), to.constant("rows.steps", np.array(127, np.float32))])
    steps = to.op("Round", [to.op("Div", [x, scale])])
    middle = to.op("Add", [steps, to.constant("rows.middle", np.array(128, np.float32))])
    data = to.op("Cast", [middle], {"to": int(ir.DataType.UINT8)})
    return data, scale, to.constant("rows.zero", np.array(128, np.uint8))


def constant_weight(node: ir.Node) -> npt.NDArray[np.generic] | None:
    """Find the weight [K, N] of y = x W; None if the node is no such product with a constant."""
    if node.op_type not in ("MatMul", "Gemm") or node.inputs[1] is None:
        return None
    value = node.inputs[1]
    if not value.is_initializer() or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    weight = value.const_value.numpy()
    if node.op_type == "MatMul":
        return weight
    if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_int("transA", False):
        return None
    return weight.T if node.attributes.get_int("transB", False) else weight

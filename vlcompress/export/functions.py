"""The packed layer as one ONNX node, and the model-local functions that let every runtime run it.

**The node.** Domain `vlcompress`, version 1, op type `BlockSparseLinear` or `BlockSparseLinear_<i>` with
1 <= i < MAX_BODIES. It computes Y = activation(X W^T + B (+ R)), where W [N, K] is stored by panels of h consecutive
outputs:

======  ==========================  ==============================================================================
input   type and shape              meaning
======  ==========================  ==============================================================================
X       float [..., K]              activations, any rank from 2 on
W       float [P[-1] * h]           panel p holds W[P[p]*h : P[p+1]*h]; entry j*h + r of it is the weight of output
                                    p*h + r for the input column I[P[p] + j] (a column's h weights are contiguous)
I       int32 [P[-1]]               kept columns of each panel, rising within a panel, 0 <= I < K
P       int64 [N/h + 1]             where each panel begins in I; strictly rising: no panel is empty (one that keeps
                                    nothing holds column 0 with zero weights)
B       float [N]                   bias, always there (zeros if the layer has none)
R       float [..., N], optional    residual, added before the activation; this exporter writes it where none follows
======  ==========================  ==============================================================================

`BlockSparseLinearInt8` and `BlockSparseLinearInt8_<i>` are the same in int8: W is int8 in -127..127, S float [N] comes
between P and B, and the weight of output n is S[n] times what W holds. How X is rounded is the operator's affair: the
bodies take one scale for all of it (DynamicQuantizeLinear), the native kernel one for each row.

Attributes: N (int), K (int), h (int; a multiple of 16 that divides N), activation (string: "none", "gelu" (exact, with
erf), "gelu_tanh" or "relu"). W, I, P, S and B are always initialisers. Y is float [..., N].

**The bodies.** Each op type that a file uses has a model-local function of the same domain and name in that file, whose
body is standard operators. A runtime that registers no such operator inlines it: it slices W, I and P (constants, so
this is folded when the model is loaded) and runs row groups. A runtime with our library registered takes the native
kernel instead and ignores the body. A body fixes the structure (how many panels make a row group, how its columns are
gathered, rank of X, activation), so a file with several structures has several op types; the number in a name only
tells bodies apart, and a native library registers the same kernel under all MAX_BODIES names.

Function overloads would say the same with one op type, but they are not safe: onnxruntime 1.20 and onnx's reference
evaluator look functions up without the overload, and compute something else without a word (1.31.1 is right).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vlcompress.export.lowering import Access, Form, Kind, Multiply, Writer, lower, products, rank
from vlcompress.export.native.library import round_weight
from vlcompress.kernels.grouped import RowGroups

DOMAIN = "vlcompress"
VERSION = 1
NAME = "BlockSparseLinear"
NAME_INT8 = "BlockSparseLinearInt8"

MAX_BODIES = 256
"""Op types of each name that a native library registers: NAME, NAME_1 ... NAME_255."""

PANEL = 16
"""The height of panels that is written: what a step of the native kernel computes. Taller ones would save a few
indices, but a step's weights then lie far apart: with blocks of 192x16 at 70 %, LXMERT-base ran 1.8 times as fast as
dense, with panels of 16 2.5 times."""

Floats = npt.NDArray[np.float32]

_END = np.iinfo(np.int64).max
"""Slices to here go to the end."""

Activation = Literal["none", "gelu", "gelu_tanh", "relu"]

_ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}


@dataclass(frozen=True)
class Panels:
    """A weight [N, K] as the node stores it.

    Attributes:
        values: float32 or int8 [P[-1] * height], input W.
        columns: int32 [P[-1]], input I.
        starts: int64 [N/height + 1], input P.
        height: h.
        scales: float32 [N], input S of int8; None for float32.
    """

    values: Floats | npt.NDArray[np.int8]
    columns: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    height: int
    scales: Floats | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        scales = 0 if self.scales is None else self.scales.nbytes
        return int(self.values.nbytes + self.columns.nbytes + self.starts.nbytes + scales)


@dataclass(frozen=True)
class Body:
    """What fixes a function's body; equal ones share a function.

    Attributes:
        kind: "gather" or "transposed" multiplies row groups; "rebuild" makes the dense weight (when it is loaded).
        width: K.
        height: h.
        groups: how many panels make each row group (of "rebuild": the number of panels, once).
        access: how each group reads its columns (of "rebuild": nothing).
        rank: of X.
        activation: applied at the end.
        residual: whether R is added, which only comes without an activation.
        int8: whether W is int8.
    """

    kind: Kind | Literal["rebuild"]
    width: int
    height: int
    groups: tuple[int, ...]
    access: tuple[Access, ...]
    rank: int
    activation: Activation
    residual: bool = False
    int8: bool = False


def packable(groups: RowGroups) -> bool:
    """Tell whether every group's rows come in whole panels, so that a node can hold them."""
    return not any(len(group.weight) % PANEL for group in groups.groups)


def pack_panels(groups: RowGroups, *, int8: bool = False) -> Panels:
    """Store row groups by panels, rounded if asked to; a group's columns are repeated for each of its panels."""
    values, scales, columns, counts = [], [], [], [0]
    for group in groups.groups:
        index = group.columns.numpy().astype(np.int32)
        panels, weight = len(group.weight) // PANEL, group.weight.numpy()
        if int8:
            weight, scale = round_weight(weight)
            scales.append(scale)
        values.append(np.ascontiguousarray(weight.reshape(panels, PANEL, len(index)).swapaxes(1, 2)).reshape(-1))
        columns += [index] * panels
        counts += [len(index)] * panels
    starts = np.cumsum(counts, dtype=np.int64)
    return Panels(
        np.concatenate(values), np.concatenate(columns), starts, PANEL, np.concatenate(scales) if int8 else None
    )


def body_of(form: Form, x: ir.Value, activation: Activation, residual: bool = False, int8: bool = False) -> Body:
    """Tell which body runs a layer's form on x."""
    panels = tuple(len(group.weight) // PANEL for group in form.groups.groups)
    return Body(form.kind, form.groups.shape[1], PANEL, panels, form.access, rank(x), activation, residual, int8)


def rebuilding(
    groups: RowGroups, rank_: int, activation: Activation, residual: bool = False, int8: bool = False
) -> Body:
    """Tell the body that makes the dense weight of packed row groups, for a layer that a stock runtime runs dense."""
    panels = (groups.shape[0] // PANEL,)
    return Body("rebuild", groups.shape[1], PANEL, panels, (), rank_, activation, residual, int8)


def make_function(body: Body, name: str, opset: int) -> ir.Function:
    """Write a body as a model-local function."""
    shape: list[int | str | None] = [*(f"d{axis}" for axis in range(body.rank - 1)), body.width]
    x = ir.val("X", dtype=ir.DataType.FLOAT, shape=shape)
    w, i, p, s, b, r = (ir.val(letter) for letter in "WIPSBR")
    to = _FunctionWriter()

    def finish(product: ir.Value) -> ir.Value:
        y = to.op("Add", [product, b])
        if body.activation == "none":
            return y
        operator, settings = _ACTIVATIONS[body.activation]
        return to.op(operator, [y], settings)

    read, multiply = _in_bytes(to, body, x, s) if body.int8 else (x, products(to))
    if body.kind == "rebuild":
        y = finish(multiply(0, read, _rebuilt(to, body, w, i, p)))
    else:
        y = lower(to, read, body.kind, body.access, _Split(to, body, w, i, p), finish, multiply)
    if body.residual:
        y = to.op("Add", [y, r])
    y.name = "Y"
    inputs = [x, w, i, p, *([s] if body.int8 else []), b, *([r] if body.residual else [])]
    graph = ir.Graph(inputs, [y], nodes=to.tape.nodes, opset_imports={"": opset}, name=name)
    attributes_ = [ir.Attr(key, ir.AttributeType.INT, None) for key in ("N", "K", "h")]
    attributes_.append(ir.Attr("activation", ir.AttributeType.STRING, None))
    return ir.Function(DOMAIN, name, graph=graph, attributes=attributes_)


def _in_bytes(to: Writer, body: Body, x: ir.Value, s: ir.Value) -> tuple[ir.Value, Multiply]:
    """Round x to bytes, and tell how to multiply them, in nodes that ONNX Runtime fuses."""
    data, scale, zero = to.tape.op_multi_out("DynamicQuantizeLinear", [x], num_outputs=3)
    data.shape, data.type = x.shape, ir.TensorType(ir.DataType.UINT8)
    scales: Sequence[ir.Value] = [s]
    if len(body.groups) > 1:
        sizes = to.ints([panels * body.height for panels in body.groups])
        scales = to.tape.op_multi_out("Split", [s, sizes], {"axis": 0}, num_outputs=len(body.groups))

    def multiply(group: int, bytes_: ir.Value, weight: ir.Value) -> ir.Value:
        sums = to.op("Cast", [to.op("MatMulInteger", [bytes_, weight, zero])], {"to": int(ir.DataType.FLOAT)})
        return to.op("Mul", [sums, to.op("Mul", [scale, scales[group]])])

    return data, multiply


class _FunctionWriter(Writer):
    """Writes constants as nodes: a function has no initialisers."""

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> ir.Value:
        """Refer to the Constant node of that name, made the first time."""
        if name not in self.constants:
            self.constants[name] = self.tape.op("Constant", [], {"value": ir.tensor(values)})
        return self.constants[name]


class _Split:
    """A function's inputs W, I and P as the source of its row groups.

    Everything here is folded when the model is loaded, so there is little of it: one Split of W and one of I for all
    groups, instead of slices for each.
    """

    def __init__(self, to: _FunctionWriter, body: Body, w: ir.Value, i: ir.Value, p: ir.Value) -> None:
        self.to, self.body = to, body
        firsts = [sum(body.groups[:group]) for group in range(len(body.groups))]  # first panel of each group
        panels = sum(body.groups)
        self.width = body.access[0] if len({*body.access}) == 1 and isinstance(body.access[0], int) else 1
        pointers = p
        if panels > len(body.groups):
            pointers = to.op("Gather", [p, to.ints([*firsts, panels])], {"axis": 0})
        sizes = self._sizes(pointers, len(body.groups))
        weights = to.op("Mul", [sizes, to.ints([body.height])])
        self.weights = self._parts(w, weights, len(body.groups))
        self.indices = self._parts(self._runs(i), to.op("Div", [sizes, to.ints([self.width])]), len(body.groups))

    def weight(self, group: int) -> ir.Value:
        """Write a group's weight as [k, rows]: its panels side by side."""
        panels, height, flat = self.body.groups[group], self.body.height, self.weights[group]
        if panels > 1:
            tiles = self.to.op("Reshape", [flat, self.to.ints([panels, -1, height])])
            flat = self.to.op("Transpose", [tiles], {"perm": [1, 0, 2]})
        return self.to.op("Reshape", [flat, self.to.ints([-1, panels * height])])

    def columns(self, group: int, width: int) -> ir.Value:
        """Write the indices of a group's runs of columns; its first panel tells them."""
        panels, index = self.body.groups[group], self.indices[group]
        if panels > 1:
            repeated = self.to.op("Reshape", [index, self.to.ints([panels, -1])])
            zero = self.to.constant("zero", np.array(0, dtype=np.int64))
            index = self.to.op("Gather", [repeated, zero], {"axis": 0})
        return index if width == self.width else self._strided(index, width)

    def bounds(self, group: int) -> tuple[ir.Value, ir.Value]:
        """Write a slice's first column and the one after its last."""
        index, one = self.columns(group, 1), self.to.ints([1])
        first = self.to.op("Slice", [index, self.to.ints([0]), one])
        last = self.to.op("Slice", [index, self.to.ints([-1]), self.to.ints([_END])])
        wide = {"to": int(ir.DataType.INT64)}
        return self.to.op("Cast", [first], wide), self.to.op("Add", [self.to.op("Cast", [last], wide), one])

    def _sizes(self, pointers: ir.Value, count: int) -> ir.Value:
        """Subtract count + 1 pointers, each from the next."""
        begins = self.to.op("Slice", [pointers, self.to.ints([0]), self.to.ints([count])])
        return self.to.op("Sub", [self.to.op("Slice", [pointers, self.to.ints([1]), self.to.ints([_END])]), begins])

    def _parts(self, value: ir.Value, sizes: ir.Value, count: int) -> Sequence[ir.Value]:
        if count == 1:
            return [value]
        return self.to.tape.op_multi_out("Split", [value, sizes], {"axis": 0}, num_outputs=count)

    def _runs(self, index: ir.Value) -> ir.Value:
        return index if self.width == 1 else self._strided(index, self.width)

    def _strided(self, index: ir.Value, width: int) -> ir.Value:
        """Turn columns into runs of `width` of them: every width-th index, divided by it."""
        every = [self.to.ints([0]), self.to.ints([_END]), self.to.ints([0]), self.to.ints([width])]
        first = self.to.op("Slice", [index, *every])
        return self.to.op("Div", [first, self.to.constant(f"width.{width}", np.array([width], dtype=np.int32))])


def _rebuilt(to: Writer, body: Body, w: ir.Value, i: ir.Value, p: ir.Value) -> ir.Value:
    """Write the dense weight [K, N]: each column of each panel is put in its place (no index twice, so no add)."""
    (panels,), wide = body.groups, {"to": int(ir.DataType.INT64)}
    zeros = to.op("ConstantOfShape", [to.op("Shape", [i])], {"value": ir.tensor(np.zeros(1, dtype=np.int64))})
    panel = zeros  # of each kept column
    if panels > 1:
        begins = to.op("Slice", [p, to.ints([1]), to.ints([panels])])
        ones = to.op("ConstantOfShape", [to.ints([panels - 1])], {"value": ir.tensor(np.ones(1, dtype=np.int64))})
        axis = to.constant("axis", np.array(0, dtype=np.int64))
        panel = to.op("CumSum", [to.op("ScatterElements", [zeros, begins, ones]), axis])
    place = [to.op("Unsqueeze", [value, to.ints([1])]) for value in (to.op("Cast", [i], wide), panel)]
    nothing = ir.tensor(np.zeros(1, dtype=np.int8 if body.int8 else np.float32))
    empty = to.op("ConstantOfShape", [to.ints([body.width, panels, body.height])], {"value": nothing})
    columns = to.op("Reshape", [w, to.ints([-1, body.height])])
    filled = to.op("ScatterND", [empty, to.op("Concat", [*place], {"axis": 1}), columns])
    return to.op("Reshape", [filled, to.ints([body.width, panels * body.height])])

"""Block-pruned layers as standard ONNX operators: per row group a gather of the columns it needs and a small MatMul.

A MatMul whose weight holds zeros is as slow as a dense one, and ONNX Runtime makes sparse initialisers dense. What is
fast is a dense MatMul of fewer rows and columns, so each row group becomes one, and the outputs are concatenated.
Scatter-add forms are avoided: ONNX Runtime's are wrong with more than one thread (microsoft/onnxruntime#18048).

Letters: x is [..., K], y is [..., N], M is the number of rows of x when flattened, k the columns that a group reads.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from vlcompress.sparse.formats import Bsr, RowGroup, RowGroups, aligned_width, row_groups, to_dense

Kind = Literal["gather", "transposed"]

GATHER_COSTS = (0.0, 48.0, 1e9)
"""Merging strengths that are tried: no padding with zeros, a middle one, and one group that reads every used column."""

WORTH_A_TRY = 0.95
"""A form that still multiplies more than this share of the weights cannot be 5 % faster."""


@dataclass(frozen=True)
class Form:
    """One way to write a layer.

    Attributes:
        kind: "gather" copies whole aligned runs of columns of x (Reshape, Gather, Reshape), or slices them;
            "transposed" turns x once and gathers single rows of it, which makes 1-wide columns cheap.
        groups: the row groups that it multiplies.
    """

    kind: Kind
    groups: RowGroups


def forms(bsr: Bsr) -> dict[str, Form]:
    """List the forms worth measuring for a weight, by a name that says kind and number of groups."""
    found: dict[str, Form] = {}
    for cost in GATHER_COSTS:
        groups = row_groups(bsr, gather_cost=cost)
        if groups.density <= WORTH_A_TRY:
            kinds: tuple[Kind, ...] = ("gather", "transposed") if _width(groups) > 1 else ("transposed",)
            found |= {f"{kind}:{len(groups.groups)}": Form(kind, groups) for kind in kinds}
    return found


@dataclass(frozen=True)
class Writer:
    """Collects new nodes; constants of one name are made once, so a weight that is used twice is stored once.

    Attributes:
        tape: the nodes.
        constants: initialisers by name; share it between the writers of one graph.
    """

    tape: Tape = field(default_factory=Tape)
    constants: dict[str, ir.Value] = field(default_factory=dict)

    def op(
        self, kind: str, inputs: list[ir.Value | None], attributes: Mapping[str, int | list[int]] | None = None
    ) -> ir.Value:
        """Append a node with one output."""
        return self.tape.op(kind, inputs, attributes)

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> ir.Value:
        """Give the initialiser of that name, made of `values` the first time."""
        if name not in self.constants:
            tensor = ir.tensor(values, name=name)
            value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
            value.const_value = tensor
            self.constants[name] = value
        return self.constants[name]

    def ints(self, values: Iterable[int]) -> ir.Value:
        """Give an int64 vector named by its content: equal shapes are then visibly equal, and runtimes merge nodes."""
        array = np.asarray(list(values), dtype=np.int64)
        text = "_".join(map(str, array)) if len(array) <= 4 else hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return self.constant(f"ints.{text}", array)


def lower_layers(model: ir.Model, layers: Mapping[str, tuple[Bsr, Form]]) -> int:
    """Rewrite, in place, every MatMul or Gemm whose weight is one of the layers'.

    Args:
        model: a graph whose weights are initialisers; they are recognised by their content, since exporters rename
            and transpose them.
        layers: by canonical weight name, the weight and how to write it.

    Returns:
        How many nodes were rewritten (a shared weight counts once for each use).
    """
    by_content = {_digest(to_dense(bsr).T.numpy()): (name, form) for name, (bsr, form) in layers.items()}
    constants: dict[str, ir.Value] = {}
    rewritten = 0
    for node in list(model.graph):
        weight = _constant_weight(node)
        found = None if weight is None else by_content.get(_digest(weight))
        if found is not None:
            _rewrite(model.graph, node, found[1], Writer(constants=constants), found[0])
            rewritten += 1
    for value in constants.values():
        model.graph.register_initializer(value)
    return rewritten


def lower(to: Writer, x: ir.Value, form: Form, name: str) -> ir.Value:
    """Write one layer.

    Args:
        to: receives nodes and constants.
        x: float [..., K] with a known rank and known K.
        form: how to write the layer.
        name: prefix of its constants' names.

    Returns:
        float [..., N], without the bias.
    """
    if form.kind == "transposed":
        return _lower_transposed(to, x, form.groups, name)
    parts = []
    for i, group in enumerate(form.groups.groups):
        gathered = _gather_last(to, x, group, form.groups.shape[1])
        parts.append(to.op("MatMul", [gathered, _weight(to, group, f"{name}.group{i}")]))
    return _concat(to, parts, -1)


def _rewrite(graph: ir.Graph, node: ir.Node, form: Form, to: Writer, name: str) -> None:
    x, old = node.inputs[0], node.outputs[0]
    assert x is not None, "MatMul and Gemm have a first input"
    y = lower(to, x, form, name)
    if len(node.inputs) == 3:  # Gemm carries its bias
        y = to.op("Add", [y, node.inputs[2]])
    y.shape, y.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], to.tape.nodes, [old], [y])


def _constant_weight(node: ir.Node) -> npt.NDArray[np.generic] | None:
    """Give the weight of y = x W as [K, N], or None if the node is no such product with a constant."""
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


def _digest(weight_KN: npt.NDArray[np.generic]) -> tuple[tuple[int, ...], str]:
    return weight_KN.shape, hashlib.sha256(np.ascontiguousarray(weight_KN).tobytes()).hexdigest()


def _gather_last(to: Writer, x: ir.Value, group: RowGroup, total: int) -> ir.Value:
    """Take columns of x [..., K] -> [..., k]: as it is, as one slice, or block-wise."""
    columns = group.columns.numpy()
    if len(columns) == total:
        return x
    if columns[-1] - columns[0] + 1 == len(columns):
        return _slice(to, x, columns, _rank(x) - 1)
    width, leading = aligned_width(columns, total), [0] * (_rank(x) - 1)  # 0 copies the dimension of x
    blocks = to.op("Reshape", [x, to.ints([*leading, total // width, width])])
    taken = to.op("Gather", [blocks, to.ints(columns[::width] // width)], {"axis": _rank(x) - 1})
    return to.op("Reshape", [taken, to.ints([*leading, len(columns)])])


def _lower_transposed(to: Writer, x: ir.Value, groups: RowGroups, name: str) -> ir.Value:
    """Write y = concat(Gemm(gather(x^T), W_g^T, transA)): rows of x^T are contiguous, so any columns are cheap."""
    rows, columns = groups.shape
    flat_MK = x if _rank(x) == 2 else to.op("Reshape", [x, to.ints([-1, columns])])
    turned_KM = to.op("Transpose", [flat_MK], {"perm": [1, 0]})
    parts = []
    for i, group in enumerate(groups.groups):
        taken = _gather_first(to, turned_KM, group.columns.numpy(), columns)
        parts.append(to.op("Gemm", [taken, _weight(to, group, f"{name}.group{i}")], {"transA": 1}))
    flat_MN = _concat(to, parts, 1)
    if _rank(x) == 2:
        return flat_MN
    leading = to.op("Shape", [x], {"start": 0, "end": _rank(x) - 1})
    shape = to.op("Concat", [leading, to.ints([rows])], {"axis": 0})
    return to.op("Reshape", [flat_MN, shape])


def _gather_first(to: Writer, x: ir.Value, index: npt.NDArray[np.int64], total: int) -> ir.Value:
    if len(index) == total:
        return x
    if index[-1] - index[0] + 1 == len(index):
        return _slice(to, x, index, 0)
    return to.op("Gather", [x, to.ints(index)], {"axis": 0})


def _slice(to: Writer, x: ir.Value, index: npt.NDArray[np.int64], axis: int) -> ir.Value:
    return to.op("Slice", [x, to.ints([index[0]]), to.ints([index[-1] + 1]), to.ints([axis])])


def _concat(to: Writer, parts: list[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else to.op("Concat", list(parts), {"axis": axis})


def _weight(to: Writer, group: RowGroup, name: str) -> ir.Value:
    return to.constant(f"{name}.weight", group.weight.T.contiguous().numpy())


def _width(groups: RowGroups) -> int:
    """Give the narrowest aligned run of columns among the groups that need a gather at all (0 columns: any)."""
    return min(_group_width(group, groups.shape[1]) for group in groups.groups)


def _group_width(group: RowGroup, total: int) -> int:
    columns = group.columns.numpy()
    contiguous = columns[-1] - columns[0] + 1 == len(columns)
    return total if contiguous else aligned_width(columns, total)


def _rank(x: ir.Value) -> int:
    assert x.shape is not None, "the exporter gives every activation a shape"
    return len(x.shape)

"""Block-pruned layers as standard ONNX operators: per row group a gather of the columns it needs and a small MatMul.

A MatMul whose weight holds zeros is as slow as a dense one, and ONNX Runtime makes sparse initialisers dense. What is
fast is a dense MatMul of fewer rows and columns, so each row group becomes one, and the outputs are concatenated.
Scatter-add forms are avoided: ONNX Runtime's are wrong with more than one thread (microsoft/onnxruntime#18048).

Letters: x is [..., K], y is [..., N], M is the number of rows of x when flattened, k the columns that a group reads.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from vlcompress.kernels.formats import BlockSparseWeight
from vlcompress.kernels.grouped import RowGroup, RowGroups, block_rows_apart, row_groups

Kind = Literal["gather", "transposed"]
Merge = Literal["apart", "light", "middle", "strong", "one"]
Access = int | Literal["all", "slice"]
"""How a group reads its columns: all of them, one slice, or gathers of aligned runs of so many."""

GATHER_COST = 32.0
"""Price of reading one more column, in multiplied weights of a column: measured, 16 to 64."""

GROUP_COST = 5e5
"""Price of one more row group, in weights times rows of x: about 10 µs of operator calls at 50 GFLOP/s and more."""

STRENGTHS: Mapping[Merge, float] = {"light": 0.1, "middle": 1.0, "strong": 4.0}
"""Factors on both costs that are tried, besides no merging and a single group."""

MERGES: tuple[Merge, ...] = ("apart", *STRENGTHS, "one")

WORTH_A_TRY = 0.95
"""A form that still multiplies more than this share of the weights cannot be 5 % faster."""

MAX_GROUPS = 64
"""A layer of more row groups than this makes a graph that is slow to load and slower to run than dense."""


@dataclass(frozen=True)
class Form:
    """One way to write a layer.

    Attributes:
        kind: "gather" copies whole aligned runs of columns of x (Reshape, Gather, Reshape), or slices them;
            "transposed" turns x once and gathers single rows of it, which makes 1-wide columns cheap.
        merge: how the row groups were made: "apart" is the plain loop over block rows.
        groups: the row groups that it multiplies.
    """

    kind: Kind
    merge: Merge
    groups: RowGroups

    @property
    def name(self) -> str:
        """Kind and number of groups; the plain loop over block rows is called "rows"."""
        count = len(self.groups.groups)
        return f"rows:{count}" if self.merge == "apart" and self.kind == "gather" else f"{self.kind}:{count}"

    @property
    def access(self) -> tuple[Access, ...]:
        """How each group reads its columns: those that gather all do it in runs of one width."""
        if self.kind == "transposed":
            return tuple(how if isinstance(how, str) else 1 for how in self._widest)
        width = min((how for how in self._widest if not isinstance(how, str)), default=1)
        return tuple(how if isinstance(how, str) else width for how in self._widest)

    @property
    def _widest(self) -> tuple[Access, ...]:
        return tuple(_access(group, self.groups.shape[1]) for group in self.groups.groups)


def form_of(weight: BlockSparseWeight, rows: int, kind: Kind, merge: Merge) -> Form | None:
    """Make one form of a weight; None where it is not worth a try."""
    form = Form(kind, merge, _grouping(weight, rows, merge))
    fits = kind == "transposed" or _widest(form.groups) > 1
    return form if fits and _worth_a_try(form.groups) else None


def forms(weight: BlockSparseWeight, rows: int) -> dict[str, Form]:
    """List the forms worth measuring for a weight.

    Args:
        weight: the weight.
        rows: rows M of the activations: the fewer, the more an operator call weighs, and the more is merged.
    """
    found: dict[str, Form] = {}
    seen: set[tuple[int, ...]] = set()
    for merge in MERGES:
        if merge == "apart" and weight.shape[0] // weight.block[0] > MAX_GROUPS:
            continue
        groups = _grouping(weight, rows, merge)
        starts = tuple(group.start for group in groups.groups)
        if _worth_a_try(groups) and starts not in seen:
            seen.add(starts)
            kinds: tuple[Kind, ...] = ("gather", "transposed") if _widest(groups) > 1 else ("transposed",)
            for form in (Form(kind, merge, groups) for kind in kinds):
                found.setdefault(form.name, form)
    return found


class GroupSource(Protocol):
    """Where a layer's packed weights come from: constants of the graph, or inputs of a function."""

    def weight(self, group: int) -> ir.Value:
        """Write a group's weight as [k, rows]."""

    def columns(self, group: int, width: int) -> ir.Value:
        """Write the indices of a group's runs of `width` columns, [k / width]."""

    def bounds(self, group: int) -> tuple[ir.Value, ir.Value]:
        """Write the first column of a group that reads one slice, and the one after its last: [1] each."""


@dataclass
class Writer:
    """Collects new nodes; constants of one name are made once, so a weight that is used twice is stored once.

    Attributes:
        tape: the nodes.
        constants: initialisers by name; share it between the writers of one graph.
    """

    tape: Tape = field(default_factory=Tape)
    constants: dict[str, ir.Value] = field(default_factory=dict)

    def op(self, kind: str, inputs: list[ir.Value | None], attributes: Mapping[str, Any] | None = None) -> ir.Value:
        """Append a node with one output."""
        return self.tape.op(kind, inputs, attributes)

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> ir.Value:
        """Refer to the initialiser of that name, made of `values` the first time."""
        if name not in self.constants:
            tensor = ir.tensor(values, name=name)
            value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
            value.const_value = tensor
            self.constants[name] = value
        return self.constants[name]

    def ints(self, values: Iterable[int]) -> ir.Value:
        """Name an int64 vector by its content: equal shapes are then visibly equal, and runtimes merge nodes."""
        array = np.asarray(list(values), dtype=np.int64)
        text = "_".join(map(str, array)) if len(array) <= 4 else hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return self.constant(f"ints.{text}", array)


@dataclass(frozen=True)
class Constants:
    """A layer's weights as constants of the graph itself."""

    to: Writer
    form: Form
    name: str

    def weight(self, group: int) -> ir.Value:
        """Write a group's weight as [k, rows]."""
        values = self.form.groups.groups[group].weight.T.contiguous().numpy()
        return self.to.constant(f"{self.name}.group{group}.weight", values)

    def columns(self, group: int, width: int) -> ir.Value:
        """Write the indices of a group's runs of columns."""
        return self.to.ints(self.form.groups.groups[group].columns.numpy()[::width] // width)

    def bounds(self, group: int) -> tuple[ir.Value, ir.Value]:
        """Write a slice's first column and the one after its last."""
        columns = self.form.groups.groups[group].columns
        return self.to.ints([int(columns[0])]), self.to.ints([int(columns[-1]) + 1])


Finish = Callable[[ir.Value], ir.Value]
"""Adds to the products what follows them: bias and activation."""

Multiply = Callable[[int, ir.Value, ir.Value], ir.Value]
"""Writes the product of a group by its number: of x [..., k] and a weight [k, rows]."""


def products(to: Writer) -> Multiply:
    """Write plain products."""
    return lambda group, x, weight: to.op("MatMul", [x, weight])


def lower(
    to: Writer,
    x: ir.Value,
    kind: Kind,
    access: tuple[Access, ...],
    source: GroupSource,
    finish: Finish = lambda product: product,
    multiply: Multiply | None = None,
) -> ir.Value:
    """Write one layer's products.

    Args:
        to: receives nodes and constants.
        x: float [..., K] with a known rank and known K.
        kind: see `Form`.
        access: how each group reads its columns.
        source: gives weights and columns.
        finish: applied to the products, which may be [M, N] at that point. ONNX Runtime fuses bias and activation only
            where it knows N, which it does not once the result has been given the shape of x.
        multiply: writes each product of kind "gather"; a MatMul by default.

    Returns:
        float [..., N].
    """
    if kind == "transposed":
        return _lower_transposed(to, x, access, source, finish)
    write = multiply or products(to)
    parts = [write(i, _gather_last(to, x, how, source, i), source.weight(i)) for i, how in enumerate(access)]
    return finish(_concat(to, parts, -1))


def _grouping(weight: BlockSparseWeight, rows: int, merge: Merge) -> RowGroups:
    if merge == "apart":
        return block_rows_apart(weight)
    if merge == "one":
        return row_groups(weight, gather_cost=1e9)
    strength = STRENGTHS[merge]
    return row_groups(weight, gather_cost=strength * GATHER_COST, group_cost=strength * GROUP_COST / max(rows, 1))


def _worth_a_try(groups: RowGroups) -> bool:
    return groups.density <= WORTH_A_TRY and len(groups.groups) <= MAX_GROUPS


def _gather_last(to: Writer, x: ir.Value, how: Access, source: GroupSource, group: int) -> ir.Value:
    """Take columns of x [..., K] -> [..., k]: as it is, as one slice, or block-wise."""
    last = rank(x) - 1
    if how == "all":
        return x
    if how == "slice":
        return to.op("Slice", [x, *source.bounds(group), to.ints([last])])
    leading = [0] * last  # 0 copies the dimension of x
    blocks = to.op("Reshape", [x, to.ints([*leading, -1, how])])
    taken = to.op("Gather", [blocks, source.columns(group, how)], {"axis": last})
    return to.op("Reshape", [taken, to.ints([*leading, -1])])


def _lower_transposed(
    to: Writer, x: ir.Value, access: tuple[Access, ...], source: GroupSource, finish: Finish
) -> ir.Value:
    """Write y = concat(Gemm(gather(x^T), W_g^T, transA)): rows of x^T are contiguous, so any columns are cheap."""
    flat_MK = x if rank(x) == 2 else to.op("Reshape", [x, to.ints([-1, _width(x)])])
    turned_KM = to.op("Transpose", [flat_MK], {"perm": [1, 0]})
    parts = []
    for i, how in enumerate(access):
        parts.append(to.op("Gemm", [_gather_first(to, turned_KM, how, source, i), source.weight(i)], {"transA": 1}))
    flat_MN = finish(_concat(to, parts, 1))
    if rank(x) == 2:
        return flat_MN
    leading = to.op("Shape", [x], {"start": 0, "end": rank(x) - 1})
    return to.op("Reshape", [flat_MN, to.op("Concat", [leading, to.ints([-1])], {"axis": 0})])


def _gather_first(to: Writer, x: ir.Value, how: Access, source: GroupSource, group: int) -> ir.Value:
    if how == "all":
        return x
    if how == "slice":
        return to.op("Slice", [x, *source.bounds(group), to.ints([0])])
    return to.op("Gather", [x, source.columns(group, 1)], {"axis": 0})


def aligned_width(columns: Iterable[int], total: int, widths: tuple[int, ...] = (64, 32, 16, 8)) -> int:
    """Find the largest width such that the columns are whole aligned runs of that many, 1 if none of `widths` fits.

    Copying 16 floats at once is about ten times cheaper than copying them one by one, so this decides which gather an
    exported graph uses.

    Args:
        columns: rising column indices.
        total: number of columns of the whole weight; the width must divide it.
    """
    index = np.fromiter(columns, dtype=np.int64)
    for width in widths:
        if total % width == 0 and len(index) % width == 0:
            runs = index.reshape(-1, width)
            if (runs[:, 0] % width == 0).all() and (runs == runs[:, :1] + np.arange(width)).all():
                return width
    return 1


def _concat(to: Writer, parts: list[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else to.op("Concat", list(parts), {"axis": axis})


def _access(group: RowGroup, total: int) -> Access:
    columns = group.columns.numpy()
    if len(columns) == total:
        return "all"
    contiguous = columns[-1] - columns[0] + 1 == len(columns)
    return "slice" if contiguous else aligned_width(columns, total)


def _widest(groups: RowGroups) -> int:
    """Find the narrowest run of columns among the groups that need a gather at all (0 columns: any)."""
    total = groups.shape[1]
    found = (_access(group, total) for group in groups.groups)
    return min(total if isinstance(how, str) else how for how in found)


def rank(x: ir.Value) -> int:
    """Count the axes of an activation."""
    assert x.shape is not None, "the exporter gives every activation a shape"
    return len(x.shape)


def _width(x: ir.Value) -> int:
    assert x.shape is not None, "the exporter gives every activation a shape"
    width = x.shape[-1]
    assert isinstance(width, int), "the width of a layer's input is fixed by its weight"
    return width

"""The path for any device: gathers of the columns that some rows need, and dense products of those.

Two forms of it. `RowGroups` is prepared once for a weight that stays: neighbouring block rows that read much the same
columns are merged, since a gather costs as much as multiplying its columns with 16 to 64 rows. It is also what a
block-sparse layer is exported as. `product` and `values_gradient` take the stored blocks as they come, an output block
row at a time: the operator's path where there is no Triton kernel, with gradients.

Legend: M rows of the input, N out features, K in features, R x C block, b blocks of one output, nnz stored blocks,
k columns that one group of rows reads.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vlcompress.kernels.formats import BlockSparseWeight, unpack

MIN_ROWS = 16
"""Rows of the lowest row group: one vector register of float32 outputs."""


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows that read the same columns.

    Attributes:
        start: first row.
        columns: int64 [k], rising; never empty (a group that reads nothing keeps column 0 with zero weights).
        weight: [rows, k], the dense sub-matrix.
    """

    start: int
    columns: Tensor
    weight: Tensor


@dataclass(frozen=True)
class RowGroups:
    """A weight [N, K] as row groups, top to bottom, that together cover every row once."""

    groups: tuple[RowGroup, ...]
    shape: tuple[int, int]

    @property
    def density(self) -> float:
        """Multiplied weights as a fraction of N*K: at least that of the stored blocks, since merging adds zeros."""
        return sum(group.weight.numel() for group in self.groups) / (self.shape[0] * self.shape[1])


def row_groups(weight: BlockSparseWeight, *, gather_cost: float = 32.0, group_cost: float = 256.0) -> RowGroups:
    """Split a weight into groups of consecutive block rows, merging neighbours where that pays.

    The cost of a group that multiplies [rows, k] weights is ``rows*k + gather_cost*k + group_cost``, in multiplied
    weights; neighbours are merged, best gain first, as long as the sum of costs does not rise.

    Args:
        gather_cost: price of reading one more column, in weights. Measured: copying a column costs as much as
            multiplying it with 16 to 64 rows.
        group_cost: price of one more group (its share of operator overhead).
    """
    height, width = weight.block
    return _groups(weight, _merge(_coarse_runs(weight.pattern.stored.cpu(), height), width, gather_cost, group_cost))


def block_rows_apart(weight: BlockSparseWeight) -> RowGroups:
    """Make every block row a group of its own: the plain loop over BSR rows."""
    height = weight.block[0]
    stored_nk = weight.pattern.stored.cpu()
    return _groups(weight, [(range(i * height, (i + 1) * height), keep) for i, keep in enumerate(stored_nk)])


def row_panels(weight: BlockSparseWeight) -> RowGroups | None:
    """Group rows in panels of equal height, the lowest multiple of MIN_ROWS that fits; None where none fits."""
    height = weight.block[0]
    if weight.shape[0] % MIN_ROWS or (MIN_ROWS % height and height % MIN_ROWS):
        return None
    return _groups(weight, _coarse_runs(weight.pattern.stored.cpu(), height))


def multiply(x: Tensor, groups: RowGroups, bias_N: Tensor | None) -> Tensor:
    """x Wᵀ + bias for x [..., K]: [..., N]. Nothing here depends on values, so a CUDA graph can hold it."""
    if len(groups.groups) == 1:
        (only,) = groups.groups
        return torch.nn.functional.linear(x.index_select(-1, only.columns), only.weight, bias_N)
    # Rows of xᵀ are contiguous: gathering any of its columns then costs a plain copy.
    turned_KM = x.reshape(-1, x.shape[-1]).t().contiguous()
    parts = [torch.mm(turned_KM.index_select(0, group.columns).t(), group.weight.t()) for group in groups.groups]
    y_MN = torch.cat(parts, dim=1)
    if bias_N is not None:
        y_MN = y_MN + bias_N
    return y_MN.view(*x.shape[:-1], groups.shape[0])


Run = tuple[range, Tensor]
"""The rows of a group, and bool [K/C]: the block columns that it reads."""


def _groups(weight: BlockSparseWeight, runs: list[Run]) -> RowGroups:
    dense_NK, width = unpack(weight), weight.block[1]
    return RowGroups(tuple(_group(dense_NK, rows, keep, width) for rows, keep in runs), weight.shape)


def _group(dense_NK: Tensor, rows: range, keep: Tensor, width: int) -> RowGroup:
    blocks = keep.nonzero() if bool(keep.any()) else torch.zeros(1, 1, dtype=torch.int64)
    columns = (blocks * width + torch.arange(width)).flatten().to(dense_NK.device)
    return RowGroup(rows.start, columns, dense_NK[rows.start : rows.stop].index_select(1, columns).contiguous())


def _coarse_runs(stored_nk: Tensor, height: int) -> list[Run]:
    """Start from groups of at least MIN_ROWS rows: lower ones never pay, and there may be thousands of them."""
    step = max(1, MIN_ROWS // height)
    pieces = torch.split(stored_nk, step)
    starts = [i * step * height for i in range(len(pieces))] + [len(stored_nk) * height]
    return [(range(a, b), piece.any(0)) for (a, b), piece in zip(pairwise(starts), pieces, strict=True)]


def _merge(runs: list[Run], width: int, gather_cost: float, group_cost: float) -> list[Run]:
    """Merge neighbouring runs greedily, the best gain first."""

    def cost(rows: int, keep: Tensor) -> float:
        return float(keep.sum()) * width * (rows + gather_cost) + group_cost

    def gain(a: Run, b: Run) -> float:
        return cost(len(a[0]), a[1]) + cost(len(b[0]), b[1]) - cost(len(a[0]) + len(b[0]), a[1] | b[1])

    gains = [gain(a, b) for a, b in pairwise(runs)]
    while gains and max(gains) >= 0:
        at = gains.index(max(gains))
        (above, keep_above), (below, keep_below) = runs[at : at + 2]
        runs[at : at + 2] = [(range(above.start, below.stop), keep_above | keep_below)]
        del gains[at]
        for i in {at - 1, at} & set(range(len(gains))):
            gains[i] = gain(runs[i], runs[i + 1])
    return runs


def product(
    x_MK: Tensor, values: Tensor, output: Tensor, source: Tensor, out_features: int, transposed: bool
) -> Tensor:
    """Multiply x Wᵀ, or x W where transposed: [M, out_features] in x's dtype.

    Args:
        x_MK: [M, K], or [M, N] where transposed.
        values: [nnz, R, C].
        output: [nnz], block of the output that each stored block adds to.
        source: [nnz], block of the input that it reads.
    """
    width = values.shape[1 if transposed else 2]
    height = values.shape[2 if transposed else 1]
    x_MkC = x_MK.contiguous().view(x_MK.shape[0], x_MK.shape[1] // width, width)
    y_MN = x_MK.new_zeros(x_MK.shape[0], out_features)
    for row, blocks in _blocks_by_output(output):
        gathered = x_MkC.index_select(1, source[blocks].long()).flatten(1)
        stored = values[blocks] if transposed else values[blocks].transpose(1, 2)
        torch.mm(gathered, stored.reshape(-1, height), out=y_MN[:, row * height : (row + 1) * height])
    return y_MN


def values_gradient(dy_MN: Tensor, x_MK: Tensor, row: Tensor, col: Tensor, block: tuple[int, int]) -> Tensor:
    """Multiply dYᵀ X at the stored blocks: [nnz, R, C] in x's dtype."""
    height, width = block
    x_MkC = x_MK.contiguous().view(x_MK.shape[0], x_MK.shape[1] // width, width)
    dw = x_MK.new_empty(row.numel(), height, width)
    for index, blocks in _blocks_by_output(row):
        gathered = x_MkC.index_select(1, col[blocks].long()).flatten(1)
        strip = dy_MN[:, index * height : (index + 1) * height].T @ gathered
        dw[blocks] = strip.reshape(height, -1, width).transpose(0, 1)
    return dw


def _blocks_by_output(output: Tensor) -> list[tuple[int, Tensor]]:
    """List (output block, its stored blocks), for the outputs that own any."""
    order = torch.argsort(output, stable=True)
    present, counts = torch.unique_consecutive(output[order], return_counts=True)
    return list(zip(present.tolist(), torch.split(order, counts.tolist()), strict=True))

"""Block-sparse weights: BSR with rectangular blocks, and the row groups that dense hardware likes.

Shapes, here and in the rest of the package: a weight is [N, K] = [out, in], a block is [R, C], and a mask is a bool
[N, K] with True for what is kept. `Bsr` is what is stored; `RowGroups` is derived from it and never stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlcompress.errors import VlcompressError

Block = tuple[int, int]
"""Rows and columns of a block [R, C]."""

MIN_ROWS = 16
"""Rows of the lowest row group: one vector register of float32 outputs."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Bsr:
    """A weight [N, K] of which only some blocks [R, C] are stored (block compressed sparse rows).

    Attributes:
        values: the stored blocks [nnz, R, C] in row-major order of their position, the weight's dtype.
        crow: int32 [N/R + 1]; block row i owns the blocks crow[i] .. crow[i+1]-1.
        col: int32 [nnz]; the block column of each block, rising within a block row.
        shape: (N, K).
    """

    values: Tensor
    crow: Tensor
    col: Tensor
    shape: tuple[int, int]

    @property
    def block(self) -> Block:
        """Rows and columns of a block."""
        return int(self.values.shape[1]), int(self.values.shape[2])

    @property
    def density(self) -> float:
        """Stored weights as a fraction of N*K, in [0, 1]."""
        return self.values.numel() / (self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of values and indices together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.values, self.crow, self.col))


def check_block(block: Block, shape: tuple[int, int]) -> None:
    """Refuse a block that does not divide a weight [N, K].

    Raises:
        VlcompressError: a side is below 1 or does not divide the weight's.
    """
    rows, columns = block
    if rows < 1 or columns < 1 or shape[0] % rows or shape[1] % columns:
        raise VlcompressError(
            f"block {rows}x{columns} does not fit a weight of {shape[0]}x{shape[1]}: its rows must divide {shape[0]} "
            f"and its columns {shape[1]}; choose divisors, for example 16x16"
        )


def block_mask(mask: Tensor, block: Block) -> Tensor:
    """Tell which blocks keep at least one weight: bool [N, K] -> bool [N/R, K/C]."""
    check_block(block, (mask.shape[0], mask.shape[1]))
    return _tiles(mask, block).any(dim=-1).any(dim=-1)


def tightest_block(mask: Tensor, block: Block) -> Block:
    """Give the largest block that the kept weights still fill completely, its sides dividing those of `block`.

    Removing units moves rows and columns together, so the blocks that a weight was pruned by may no longer be aligned.
    A mask that is not made of blocks gives (1, 1).
    """
    rows, columns = (
        [d for d in range(side, 0, -1) if side % d == 0 and size % d == 0]
        for side, size in zip(block, mask.shape, strict=True)
    )
    sizes = sorted(((r, c) for r in rows for c in columns), key=lambda size: size[0] * size[1], reverse=True)
    kept = int(mask.sum())
    return next((r, c) for r, c in sizes if int(block_mask(mask, (r, c)).sum()) * r * c == kept)


def pack(weight: Tensor, mask: Tensor, block: Block) -> Bsr:
    """Store a masked weight as BSR; `to_dense` gives its bits back.

    Args:
        weight: [N, K], any float dtype.
        mask: bool [N, K]; a block is stored if any of its weights is kept, and its pruned weights are stored as zero.
        block: rows and columns; must divide [N, K].

    Raises:
        VlcompressError: the block does not divide the weight.
    """
    kept = block_mask(mask, block)
    masked = torch.where(mask, weight.detach(), torch.zeros((), dtype=weight.dtype, device=weight.device))
    counts = kept.sum(dim=1)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    col = kept.nonzero()[:, 1].to(torch.int32)
    return Bsr(_tiles(masked, block)[kept].contiguous(), crow, col, (weight.shape[0], weight.shape[1]))


def to_dense(bsr: Bsr) -> Tensor:
    """Give the weight [N, K] with exact zeros where no block is stored."""
    (rows, columns), (height, width) = bsr.shape, bsr.block
    tiles = bsr.values.new_zeros(rows // height, columns // width, height, width)
    tiles[_block_rows(bsr), bsr.col.long()] = bsr.values
    return tiles.transpose(1, 2).reshape(rows, columns)


def stored(bsr: Bsr) -> Tensor:
    """Tell which blocks are stored: bool [N/R, K/C]."""
    kept = torch.zeros(
        bsr.shape[0] // bsr.block[0], bsr.shape[1] // bsr.block[1], dtype=torch.bool, device=bsr.values.device
    )
    kept[_block_rows(bsr), bsr.col.long()] = True
    return kept


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
        """Multiplied weights as a fraction of N*K: at least the BSR's density, since merging adds zeros."""
        return sum(group.weight.numel() for group in self.groups) / (self.shape[0] * self.shape[1])


def row_groups(bsr: Bsr, *, gather_cost: float = 32.0, group_cost: float = 256.0) -> RowGroups:
    """Split a weight into groups of consecutive block rows, merging neighbours where that pays.

    The cost of a group that multiplies [rows, k] weights is ``rows*k + gather_cost*k + group_cost``, in multiplied
    weights; neighbours are merged, best gain first, as long as the sum of costs does not rise.

    Args:
        gather_cost: price of reading one more column, in weights. Measured: copying a column costs as much as
            multiplying it with 16 to 64 rows.
        group_cost: price of one more group (its share of operator overhead).
    """
    height, width = bsr.block
    runs = _merge(stored(bsr).cpu().numpy(), height, width, gather_cost, group_cost)
    dense = to_dense(bsr)
    return RowGroups(tuple(_group(dense, rows, keep, width) for rows, keep in runs), bsr.shape)


def block_rows_apart(bsr: Bsr) -> RowGroups:
    """Give every block row as a group of its own: the plain loop over BSR rows."""
    height, width = bsr.block
    dense, kept = to_dense(bsr), stored(bsr).cpu().numpy()
    rows = (range(i * height, (i + 1) * height) for i in range(len(kept)))
    return RowGroups(tuple(_group(dense, run, keep, width) for run, keep in zip(rows, kept, strict=True)), bsr.shape)


def row_panels(bsr: Bsr) -> RowGroups | None:
    """Give panels of equal height, a multiple of MIN_ROWS as low as the blocks allow; None where none divides."""
    height, width = bsr.block
    if bsr.shape[0] % MIN_ROWS or (MIN_ROWS % height and height % MIN_ROWS):
        return None
    dense, runs = to_dense(bsr), _coarse_runs(stored(bsr).cpu().numpy(), height)
    return RowGroups(tuple(_group(dense, rows, keep, width) for rows, keep in runs), bsr.shape)


def _group(dense: Tensor, rows: range, keep: Bools, width: int) -> RowGroup:
    blocks = torch.from_numpy(np.flatnonzero(keep) if keep.any() else np.zeros(1, dtype=np.int64))
    columns = (blocks[:, None] * width + torch.arange(width)).flatten().to(dense.device)
    return RowGroup(rows.start, columns, dense[rows.start : rows.stop, columns].contiguous())


def _merge(kept: Bools, height: int, width: int, gather_cost: float, group_cost: float) -> list[tuple[range, Bools]]:
    """Merge neighbouring block rows of kept [N/R, K/C] greedily; give each group's rows and kept block columns."""

    def cost(rows: int, keep: Bools) -> float:
        return float(np.count_nonzero(keep)) * width * (rows + gather_cost) + group_cost

    def gain(a: tuple[range, Bools], b: tuple[range, Bools]) -> float:
        apart = cost(len(a[0]), a[1]) + cost(len(b[0]), b[1])
        return apart - cost(len(a[0]) + len(b[0]), a[1] | b[1])

    runs = _coarse_runs(kept, height)
    gains = [gain(a, b) for a, b in pairwise(runs)]
    while gains and max(gains) >= 0:
        at = int(np.argmax(gains))
        (above, keep_above), (below, keep_below) = runs[at : at + 2]
        runs[at : at + 2] = [(range(above.start, below.stop), keep_above | keep_below)]
        del gains[at]
        for i in {at - 1, at} & set(range(len(gains))):
            gains[i] = gain(runs[i], runs[i + 1])
    return runs


def _coarse_runs(kept: Bools, height: int) -> list[tuple[range, Bools]]:
    """Start from groups of at least MIN_ROWS rows: lower ones never pay, and there may be thousands of them."""
    step = max(1, MIN_ROWS // height)
    starts = range(0, len(kept), step)
    sets = np.logical_or.reduceat(kept, starts, axis=0)
    ends = [*starts[1:], len(kept)]
    return [(range(a * height, b * height), keep) for a, b, keep in zip(starts, ends, sets, strict=True)]


def aligned_width(columns: Iterable[int], total: int, widths: tuple[int, ...] = (64, 32, 16, 8)) -> int:
    """Give the largest width such that the columns are whole aligned runs of that many, 1 if none of `widths` fits.

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


def _tiles(weight: Tensor, block: Block) -> Tensor:
    """View [N, K] as [N/R, K/C, R, C]."""
    (rows, columns), (height, width) = weight.shape, block
    return weight.reshape(rows // height, height, columns // width, width).transpose(1, 2)


def _block_rows(bsr: Bsr) -> Tensor:
    """Give the block row of each stored block, int64 [nnz]."""
    counts = bsr.crow.diff().long()
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

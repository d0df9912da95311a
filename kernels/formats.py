"""Block-sparse weights: the exchange format (BSR) and the streams that the kernels walk.

Legend: N out features, K in features, R x C block (R over N, C over K), n and k block row and block column,
b stored block, nnz number of stored blocks, E stream entries.

Exchange format, for a weight ``w_NK``::

    values [nnz, R, C]   the stored blocks, by block row and then by block column
    crow   [N/R + 1]     int32, stored blocks of block row n are crow[n] .. crow[n + 1]
    col    [nnz]         int32, block column of each stored block

A kernel does not read rows: it walks a **stream**, one int64 entry a step, so that its pipeline never drains between
two output tiles. An entry packs what the step needs::

    bits 0..14 input block | bit 15 last step of this output | bits 16..30 output block | bits 32..62 slot in values

The forward stream visits block rows, the transposed stream visits block columns of the same values (dX = dY W), so the
values are stored once. An output block without any stored block still owns one entry, whose slot is nnz: one past the
end, which the kernels read as zeros. Cuts split a stream in parts of about equal length for independent programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from vlcompress.kernels.errors import KernelInputError

BLOCK_SIDES = (16, 32, 64, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What a weight may hold; float64 is for checking gradients and has no Triton kernel."""
MAX_BLOCKS_PER_SIDE = 1 << 15

_LAST_BIT = 15
_OUTPUT_SHIFT = 16
_SLOT_SHIFT = 32


@dataclass(frozen=True)
class Stream:
    """The order in which a kernel visits the stored blocks, and where that order may be cut.

    Attributes:
        walk: int64 [E + 1], the packed entries and one readable entry of padding (the kernels read one step ahead).
        cuts: int32, for each count in ``part_counts(outputs)`` in turn, ``count + 1`` positions in the walk.
    """

    walk: Tensor
    cuts: Tensor

    def to(self, device: torch.device | str) -> "Stream":
        """The same stream on another device."""
        return Stream(self.walk.to(device), self.cuts.to(device))


@dataclass(frozen=True)
class BlockPattern:
    """Which blocks of a weight [N, K] are stored, in every form that an operator needs.

    Attributes:
        shape: (N, K).
        block: (R, C).
        crow: int32 [N/R + 1].
        col: int32 [nnz], ascending within a block row.
        row: int32 [nnz], the block row of each stored block.
        forward: the stream by block rows (Y = X Wᵀ).
        transposed: the stream by block columns (dX = dY W).
    """

    shape: tuple[int, int]
    block: tuple[int, int]
    crow: Tensor
    col: Tensor
    row: Tensor
    forward: Stream
    transposed: Stream

    @property
    def nnz(self) -> int:
        """Number of stored blocks."""
        return self.col.numel()

    @property
    def density(self) -> float:
        """Fraction of the weight's elements that is stored, 0 to 1."""
        rows, cols = (side // step for side, step in zip(self.shape, self.block, strict=True))
        return self.nnz / (rows * cols)

    def to(self, device: torch.device | str) -> "BlockPattern":
        """The same pattern on another device."""
        return replace(
            self,
            crow=self.crow.to(device),
            col=self.col.to(device),
            row=self.row.to(device),
            forward=self.forward.to(device),
            transposed=self.transposed.to(device),
        )


@dataclass(frozen=True)
class BlockSparseWeight:
    """A weight [N, K] of which only some R x C blocks are stored.

    Attributes:
        values: [nnz, R, C], contiguous; may require grad.
        pattern: which blocks they are.
    """

    values: Tensor
    pattern: BlockPattern

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BlockSparseWeight":
        """The same weight on another device, or with values of another dtype."""
        target = self.values.device if device is None else torch.device(device)
        return BlockSparseWeight(self.values.to(target, dtype or self.values.dtype), self.pattern.to(target))


def pack(w_NK: Tensor, block: tuple[int, int], mask: Tensor | None = None) -> BlockSparseWeight:
    """Store the non-zero blocks of a dense weight.

    Args:
        w_NK: [N, K], finite, of a dtype in ``DTYPES``.
        block: (R, C), each in ``BLOCK_SIDES``, dividing (N, K).
        mask: bool [N/R, K/C], the blocks to keep; by default those with a non-zero element. Blocks that the mask
            drops must be zero: packing never changes the weight.

    Raises:
        KernelInputError: a shape, dtype, block or value outside these bounds.
    """
    check_layout(tuple(w_NK.shape), block, w_NK.dtype)
    blocks_nkRC = _as_blocks(w_NK, block)
    stored_nk = (blocks_nkRC != 0).flatten(2).any(2)
    if mask is not None:
        stored_nk = _checked_mask(mask, stored_nk)
    row, col = stored_nk.nonzero(as_tuple=True)
    values = blocks_nkRC[row, col].contiguous()
    _check_finite(values)
    crow = torch.zeros(stored_nk.shape[0] + 1, dtype=torch.int32, device=w_NK.device)
    crow[1:] = stored_nk.sum(1).cumsum(0)
    n_out, n_in = w_NK.shape
    return BlockSparseWeight(values, _pattern((n_out, n_in), block, crow, col.int(), row.int()))


def from_bsr(values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> BlockSparseWeight:
    """Build a weight from the exchange format, checking everything that a kernel would otherwise trust.

    Args:
        values: [nnz, R, C], finite.
        crow: integer [N/R + 1], from 0 to nnz, never descending.
        col: integer [nnz], in 0 .. K/C - 1, ascending within a block row.
        shape: (N, K).

    Raises:
        KernelInputError: any of these does not hold.
    """
    if values.dim() != 3:
        raise KernelInputError(f"values must have shape [nnz, R, C], not {list(values.shape)}")
    block = (values.shape[1], values.shape[2])
    check_layout(shape, block, values.dtype)
    _check_indices(values.shape[0], crow, col, (shape[0] // block[0], shape[1] // block[1]))
    if not crow.device == col.device == values.device:
        raise KernelInputError(f"values are on {values.device}, crow on {crow.device}, col on {col.device}: move them")
    _check_finite(values)
    counts = (crow[1:] - crow[:-1]).long()
    row = torch.repeat_interleave(torch.arange(counts.numel(), device=crow.device), counts)
    return BlockSparseWeight(values.contiguous(), _pattern(shape, block, crow.int(), col.int(), row.int()))


def unpack(weight: BlockSparseWeight) -> Tensor:
    """The dense weight [N, K], bit-exact: stored blocks as they are, +0.0 elsewhere."""
    pattern = weight.pattern
    return dense_from_blocks(weight.values, pattern.row, pattern.col, pattern.shape)


def dense_from_blocks(values: Tensor, row: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """Scatter blocks [nnz, R, C] at (row, col) into a dense [N, K] of zeros."""
    (n_out, n_in), (height, width) = shape, values.shape[1:]
    dense_nkRC = values.new_zeros(n_out // height, n_in // width, height, width)
    dense_nkRC = dense_nkRC.index_put((row.long(), col.long()), values)
    return dense_nkRC.transpose(1, 2).reshape(n_out, n_in)


def stack_rows(weights: Sequence[BlockSparseWeight]) -> BlockSparseWeight:
    """One weight [sum of N, K] from weights that read the same input, such as q, k and v.

    Raises:
        KernelInputError: the weights differ in K, block, dtype or device.
    """
    first = weights[0]
    for other in weights[1:]:
        _check_stackable(first, other)
    starts = [0]
    for weight in weights:
        starts.append(starts[-1] + weight.pattern.nnz)
    crow = torch.cat(
        [w.pattern.crow[bool(i) :] + start for i, (w, start) in enumerate(zip(weights, starts, strict=False))]
    )
    shape = (sum(w.pattern.shape[0] for w in weights), first.pattern.shape[1])
    values, col = torch.cat([w.values for w in weights]), torch.cat([w.pattern.col for w in weights])
    return from_bsr(values, crow, col, shape)


@lru_cache
def part_counts(outputs: int) -> tuple[int, ...]:
    """The numbers of parts that a stream of this many output blocks can be cut in: 1, 2, 3, 4, 6, 8, 12, ... outputs.

    Steps of 1.5 or less leave few streaming multiprocessors idle; the last count gives each output its own part.
    """
    counts = sorted({step << power for power in range(outputs.bit_length()) for step in (1, 3)} | {outputs})
    return tuple(count for count in counts if count <= outputs)


def cut_offset(outputs: int, parts: int) -> int:
    """Where the positions for this number of parts start in ``Stream.cuts``."""
    return sum(count + 1 for count in part_counts(outputs) if count < parts)


def part_of(stream: Stream, outputs: int, parts: int) -> Tensor:
    """The ``parts + 1`` walk positions between which each part runs (a view of the cuts)."""
    start = cut_offset(outputs, parts)
    return stream.cuts[start : start + parts + 1]


def check_layout(shape: tuple[int, ...], block: tuple[int, int], dtype: torch.dtype) -> None:
    """Refuse a weight that no kernel here can hold.

    Raises:
        KernelInputError: with the value, what is allowed and the fix.
    """
    if len(shape) != 2:
        raise KernelInputError(f"a weight must have shape [N, K], not {list(shape)}")
    if len(block) != 2 or any(side not in BLOCK_SIDES for side in block):
        raise KernelInputError(f"block {tuple(block)} is not supported: each side must be one of {BLOCK_SIDES}")
    if dtype not in DTYPES:
        raise KernelInputError(f"dtype {dtype} is not supported: use one of {', '.join(map(str, DTYPES))}")
    for name, size, side in zip(("N", "K"), shape, block, strict=True):
        if size == 0 or size % side:
            raise KernelInputError(f"{name}={size} is not a positive multiple of the block side {side}: keep it dense")
        if size // side >= MAX_BLOCKS_PER_SIDE:
            raise KernelInputError(
                f"{name}={size} has more than {MAX_BLOCKS_PER_SIDE - 1} blocks of {side}: use larger"
            )


def _as_blocks(w_NK: Tensor, block: tuple[int, int]) -> Tensor:
    (n_out, n_in), (height, width) = w_NK.shape, block
    return w_NK.reshape(n_out // height, height, n_in // width, width).transpose(1, 2)


def _checked_mask(mask: Tensor, stored_nk: Tensor) -> Tensor:
    if mask.shape != stored_nk.shape or mask.dtype != torch.bool:
        raise KernelInputError(f"mask must be bool {list(stored_nk.shape)}, not {mask.dtype} {list(mask.shape)}")
    lost = int((stored_nk & ~mask).sum())
    if lost:
        raise KernelInputError(f"the mask drops {lost} blocks that are not zero: zero them in the weight first")
    return mask


def _check_finite(values: Tensor) -> None:
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise KernelInputError(f"{bad} of {values.numel()} values are not finite: repair the weight before packing it")


def _check_indices(nnz: int, crow: Tensor, col: Tensor, grid: tuple[int, int]) -> None:
    rows, cols = grid
    if crow.shape != (rows + 1,) or col.shape != (nnz,):
        raise KernelInputError(
            f"crow {list(crow.shape)} and col {list(col.shape)} must be [{rows + 1}] and [{nnz}] for this weight"
        )
    if crow.is_floating_point() or col.is_floating_point():
        raise KernelInputError(f"crow and col must be integers, not {crow.dtype} and {col.dtype}")
    if int(crow[0]) != 0 or int(crow[-1]) != nnz or bool((crow[1:] < crow[:-1]).any()):
        raise KernelInputError(f"crow must rise from 0 to nnz={nnz} without descending")
    if nnz and not 0 <= int(col.min()) <= int(col.max()) < cols:
        raise KernelInputError(f"col holds {int(col.min())}..{int(col.max())}: allowed are 0..{cols - 1}")
    starts = torch.zeros(nnz, dtype=torch.bool, device=col.device)
    starts[crow[:-1][crow[:-1] < crow[1:]].long()] = True
    if nnz > 1 and bool(((col[1:] <= col[:-1]) & ~starts[1:]).any()):
        raise KernelInputError("col must ascend within each block row, without repeats: sort the blocks")


def _check_stackable(first: BlockSparseWeight, other: BlockSparseWeight) -> None:
    a, b = first.pattern, other.pattern
    if a.shape[1] != b.shape[1] or a.block != b.block:
        raise KernelInputError(f"cannot stack K={b.shape[1]} in blocks {b.block} on K={a.shape[1]} in blocks {a.block}")
    if first.values.dtype != other.values.dtype or first.values.device != other.values.device:
        raise KernelInputError(
            f"cannot stack {other.values.dtype} on {other.values.device} "
            f"with {first.values.dtype} on {first.values.device}"
        )


def _pattern(shape: tuple[int, int], block: tuple[int, int], crow: Tensor, col: Tensor, row: Tensor) -> BlockPattern:
    slots = torch.arange(col.numel(), device=col.device)
    by_column = torch.argsort(col, stable=True)
    return BlockPattern(
        shape,
        block,
        crow.contiguous(),
        col.contiguous(),
        row.contiguous(),
        forward=_stream(row, col, slots, shape[0] // block[0]),
        transposed=_stream(col[by_column], row[by_column], by_column, shape[1] // block[1]),
    )


def _stream(output: Tensor, source: Tensor, slot: Tensor, outputs: int) -> Stream:
    """Pack a stream from blocks that are sorted by output; outputs without a block get one that reads as zeros."""
    nnz = output.numel()
    counts = torch.bincount(output, minlength=outputs)
    empty = (counts == 0).nonzero().flatten()
    output = torch.cat([output.long(), empty])
    source = torch.cat([source.long(), torch.zeros_like(empty)])
    slot = torch.cat([slot, torch.full_like(empty, nnz)])
    order = torch.argsort(output, stable=True)
    output = output[order]
    last = torch.ones_like(output)
    last[:-1] = output[1:] != output[:-1]
    walk = source[order] | last << _LAST_BIT | output << _OUTPUT_SHIFT | slot[order] << _SLOT_SHIFT
    return Stream(torch.cat([walk, walk.new_zeros(1)]), _cuts(counts.clamp(min=1)))


def _cuts(lengths: Tensor) -> Tensor:
    """Cut between outputs, each time at the boundary nearest to an equal share of the steps."""
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    levels = []
    for parts in part_counts(lengths.numel()):
        share = torch.arange(parts + 1, device=lengths.device) * ends[-1] / parts
        above = torch.searchsorted(ends.double(), share.double()).clamp(max=ends.numel() - 1)
        below = (above - 1).clamp(min=0)
        nearer_below = share - ends[below] < ends[above] - share
        levels.append(torch.where(nearer_below, ends[below], ends[above]))
    # One part an output is exact by definition; the nearest boundary could be shared by two parts there.
    levels[-1] = ends
    return torch.cat(levels).int()

"""Block-sparse weights: BSR with rectangular blocks, the one exchange format of this project.

Legend: N out features, K in features, R x C block (R over N, C over K), n and k block row and block column,
b stored block, nnz number of stored blocks.

For a weight ``w_NK``::

    values [nnz, R, C]   the stored blocks, by block row and then by block column
    crow   [N/R + 1]     int32, stored blocks of block row n are crow[n] .. crow[n + 1]
    col    [nnz]         int32, block column of each stored block

Everything else is derived from it when it is asked for, and kept: the work lists that the Triton kernels follow
(work_list.py) and the row groups that dense hardware likes (grouped.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.work_list import WorkList, forward_work_list, transposed_work_list

Block = tuple[int, int]
"""Rows and columns (R, C) of a block."""

TRITON_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""What the Triton kernels compute in, with Triton's names."""
DTYPES = (*TRITON_DTYPES, torch.float64)
"""What a weight may hold; float64 is for checking gradients."""


@dataclass(frozen=True)
class BlockPattern:
    """Which blocks of a weight [N, K] are stored.

    Attributes:
        shape: (N, K).
        block: (R, C).
        crow: int32 [N/R + 1].
        col: int32 [nnz], ascending within a block row.
        row: int32 [nnz], the block row of each stored block.
        derived: what was made of these so far, by name.
    """

    shape: tuple[int, int]
    block: Block
    crow: Tensor
    col: Tensor
    row: Tensor = field(init=False)
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = self.crow.diff().long()
        blocks = torch.arange(counts.numel(), device=counts.device, dtype=torch.int32)
        object.__setattr__(self, "row", torch.repeat_interleave(blocks, counts, output_size=self.nnz))

    def derive(self, name: str, make: Callable[[], Any]) -> Any:
        """Make something once; functools.cached_property holds a lock, which Dynamo cannot trace."""
        if name not in self.derived:
            self.derived[name] = make()
        return self.derived[name]

    @property
    def nnz(self) -> int:
        """Number of stored blocks."""
        return self.col.numel()

    @property
    def grid(self) -> tuple[int, int]:
        """Block rows and block columns (N/R, K/C)."""
        return self.shape[0] // self.block[0], self.shape[1] // self.block[1]

    @property
    def density(self) -> float:
        """Fraction of the weight's elements that is stored, 0 to 1."""
        return self.nnz / (self.grid[0] * self.grid[1])

    @property
    def stored(self) -> Tensor:
        """bool [N/R, K/C], True where a block is stored."""
        stored_nk = torch.zeros(self.grid, dtype=torch.bool, device=self.col.device)
        stored_nk[self.row.long(), self.col.long()] = True
        return stored_nk

    @property
    def forward(self) -> WorkList:
        """The work list by block rows (Y = X Wᵀ).

        Raises:
            KernelInputError: blocks that no kernel can multiply.
        """
        work_list: WorkList = self.derive("forward", lambda: self._on_host(forward_work_list))
        return work_list

    @property
    def transposed(self) -> WorkList:
        """The work list by block columns (dX = dY W); likewise."""
        work_list: WorkList = self.derive("transposed", lambda: self._on_host(transposed_work_list))
        return work_list

    def _on_host(self, make: Callable[..., WorkList]) -> WorkList:
        """Make a work list on the host: hundreds of small steps, once for each weight."""
        return make(self.row.cpu(), self.col.cpu(), self.shape, self.block).to(self.col.device)

    def to(self, device: torch.device | str) -> "BlockPattern":
        """Move the pattern to another device."""
        if self.col.device == torch.device(device):
            return self
        return BlockPattern(self.shape, self.block, self.crow.to(device), self.col.to(device))


@dataclass(frozen=True)
class BlockSparseWeight:
    """A weight [N, K] of which only some R x C blocks are stored.

    Attributes:
        values: [nnz, R, C], contiguous; may require grad.
        pattern: which blocks they are.
    """

    values: Tensor
    pattern: BlockPattern

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.pattern.shape

    @property
    def block(self) -> Block:
        """(R, C)."""
        return self.pattern.block

    @property
    def density(self) -> float:
        """Fraction of the weight's elements that is stored, 0 to 1."""
        return self.pattern.density

    @property
    def nbytes(self) -> int:
        """Bytes of values and indices together."""
        return sum(t.numel() * t.element_size() for t in (self.values, self.pattern.crow, self.pattern.col))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BlockSparseWeight":
        """Move the weight to another device, or cast its values."""
        target = self.values.device if device is None else torch.device(device)
        return BlockSparseWeight(self.values.to(target, dtype or self.values.dtype), self.pattern.to(target))


def pack(w_NK: Tensor, block: Block, mask: Tensor | None = None) -> BlockSparseWeight:
    """Store the non-zero blocks of a dense weight.

    Args:
        w_NK: [N, K], finite, of a dtype in ``DTYPES``.
        block: (R, C), dividing (N, K).
        mask: bool [N/R, K/C], the blocks to keep (`block_mask` of a mask of weights); by default those with a non-zero
            element. Blocks that the mask drops must be zero: packing never changes the weight.

    Raises:
        KernelInputError: a shape, dtype, block or value outside these bounds.
    """
    check_layout(tuple(w_NK.shape), block, w_NK.dtype)
    blocks_nkRC = as_blocks(w_NK.detach(), block)
    stored_nk = (blocks_nkRC != 0).flatten(2).any(2)
    if mask is not None:
        stored_nk = _checked_mask(mask, stored_nk)
    values = blocks_nkRC[stored_nk].contiguous()
    _check_finite(values)
    counts = stored_nk.sum(1)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    n_out, n_in = w_NK.shape
    return BlockSparseWeight(values, BlockPattern((n_out, n_in), block, crow, stored_nk.nonzero()[:, 1].int()))


def pack_masked(w_NK: Tensor, mask_NK: Tensor, block: Block) -> BlockSparseWeight:
    """Store what a mask of weights keeps, in blocks: pruned weights inside a kept block are stored as zero.

    Args:
        w_NK: [N, K].
        mask_NK: bool [N, K], True for what is kept.
        block: (R, C), dividing (N, K).

    Raises:
        KernelInputError: the block does not divide the weight, or a kept weight is not finite.
    """
    masked = torch.where(mask_NK, w_NK.detach(), torch.zeros((), dtype=w_NK.dtype, device=w_NK.device))
    return pack(masked, block, block_mask(mask_NK, block))


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
    pattern = BlockPattern(shape, block, crow.int().contiguous(), col.int().contiguous())
    return BlockSparseWeight(values.contiguous(), pattern)


def unpack(weight: BlockSparseWeight) -> Tensor:
    """Restore the dense weight [N, K], bit-exact: stored blocks as they are, +0.0 elsewhere."""
    pattern = weight.pattern
    return dense_from_blocks(weight.values, pattern.row, pattern.col, pattern.shape)


def dense_from_blocks(values: Tensor, row: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """Scatter blocks [nnz, R, C] at (row, col) into a dense [N, K] of zeros."""
    (n_out, n_in), (height, width) = shape, values.shape[1:]
    dense_nkRC = values.new_zeros(n_out // height, n_in // width, height, width)
    dense_nkRC = dense_nkRC.index_put((row.long(), col.long()), values)
    return dense_nkRC.transpose(1, 2).reshape(n_out, n_in)


def block_mask(mask_NK: Tensor, block: Block) -> Tensor:
    """Mark the blocks that keep at least one weight: bool [N, K] -> bool [N/R, K/C].

    Raises:
        KernelInputError: the block does not divide the mask.
    """
    check_block((mask_NK.shape[0], mask_NK.shape[1]), block)
    return as_blocks(mask_NK, block).flatten(2).any(2)


def tightest_block(mask_NK: Tensor, block: Block) -> Block:
    """Find the largest block that the kept weights still fill completely, its sides dividing those of `block`.

    Removing units moves rows and columns together, so the blocks that a weight was pruned by may no longer be aligned.
    A mask that is not made of blocks gives (1, 1).
    """
    rows, columns = (
        [d for d in range(side, 0, -1) if side % d == 0 and size % d == 0]
        for side, size in zip(block, mask_NK.shape, strict=True)
    )
    sizes = sorted(((r, c) for r in rows for c in columns), key=lambda size: size[0] * size[1], reverse=True)
    kept = int(mask_NK.sum())
    return next((r, c) for r, c in sizes if int(block_mask(mask_NK, (r, c)).sum()) * r * c == kept)


def check_block(shape: tuple[int, ...], block: Block) -> None:
    """Refuse a block that does not divide a weight.

    Raises:
        KernelInputError: with the value, what is allowed and the fix.
    """
    if len(shape) != 2:
        raise KernelInputError(f"a weight must have shape [N, K], not {list(shape)}")
    if len(block) != 2 or min(block) < 1:
        raise KernelInputError(f"block {tuple(block)} is not supported: give two sides of at least 1")
    for name, size, side in zip(("N", "K"), shape, block, strict=True):
        if size == 0 or size % side:
            raise KernelInputError(
                f"block {block[0]}x{block[1]} does not fit a weight of {shape[0]}x{shape[1]}: {name}={size} is not a "
                f"positive multiple of the block side {side}; choose divisors, for example 16x16, or keep it dense"
            )


def check_layout(shape: tuple[int, ...], block: Block, dtype: torch.dtype) -> None:
    """Refuse a weight that the format cannot hold.

    Raises:
        KernelInputError: with the value, what is allowed and the fix.
    """
    check_block(shape, block)
    if dtype not in DTYPES:
        raise KernelInputError(f"dtype {dtype} is not supported: use one of {', '.join(map(str, DTYPES))}")


def as_blocks(w_NK: Tensor, block: Block) -> Tensor:
    """View [N, K] as [N/R, K/C, R, C]."""
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

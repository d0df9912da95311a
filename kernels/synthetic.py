"""Random block-sparse weights, for tests, benchmarks and tuning."""

import torch
from torch import Tensor

from vlcompress.kernels.formats import BlockSparseWeight, pack


def random_mask(shape: tuple[int, int], block: tuple[int, int], sparsity: float, seed: int = 0) -> Tensor:
    """bool [N/R, K/C] with exactly round((1 - sparsity) * blocks) kept, anywhere."""
    rows, cols = shape[0] // block[0], shape[1] // block[1]
    kept = round((1 - sparsity) * rows * cols)
    order = torch.randperm(rows * cols, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(rows * cols, dtype=torch.bool)
    mask[order[:kept]] = True
    return mask.reshape(rows, cols)


def masked(w_NK: Tensor, mask_nk: Tensor) -> Tensor:
    """The weight with the blocks that the mask drops set to zero."""
    height, width = w_NK.shape[0] // mask_nk.shape[0], w_NK.shape[1] // mask_nk.shape[1]
    return w_NK * mask_nk.repeat_interleave(height, 0).repeat_interleave(width, 1).to(w_NK)


def random_weight(
    shape: tuple[int, int],
    block: tuple[int, int],
    sparsity: float,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    empty_row: int | None = None,
) -> BlockSparseWeight:
    """A weight [N, K] with normal values of variance 1/K on the CPU; `empty_row` is a block row to clear."""
    mask = random_mask(shape, block, sparsity, seed)
    if empty_row is not None:
        mask[empty_row] = False
    w_NK = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[1] ** 0.5
    return pack(masked(w_NK, mask).to(dtype), block, mask)

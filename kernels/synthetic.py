"""Random block-sparse weights, for tests, benchmarks and tuning."""

import torch
from torch import Tensor

from vlcompress.kernels.formats import BlockSparseWeight, pack


def random_mask(
    shape: tuple[int, int], block: tuple[int, int], sparsity: float, seed: int = 0, skew: float = 0.0
) -> Tensor:
    """Draw bool [N/R, K/C] with exactly round((1 - sparsity) * blocks) kept.

    Args:
        skew: 0 keeps blocks anywhere; above it, the largest of normal magnitudes whose block rows have log-normal
            scales of this standard deviation, as one ranking over a whole network tends to keep them.
    """
    rows, cols = shape[0] // block[0], shape[1] // block[1]
    kept, generator = round((1 - sparsity) * rows * cols), torch.Generator().manual_seed(seed)
    if skew:
        magnitude = torch.randn(rows, cols, generator=generator).abs()
        order = (
            (magnitude * (skew * torch.randn(rows, 1, generator=generator)).exp()).flatten().argsort(descending=True)
        )
    else:
        order = torch.randperm(rows * cols, generator=generator)
    mask = torch.zeros(rows * cols, dtype=torch.bool)
    mask[order[:kept]] = True
    return mask.reshape(rows, cols)


def masked(w_NK: Tensor, mask_nk: Tensor) -> Tensor:
    """Zero the blocks of a weight that a mask drops."""
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
    """Draw a weight [N, K] of normal values of variance 1/K on the CPU; `empty_row` is a block row to clear."""
    mask = random_mask(shape, block, sparsity, seed)
    if empty_row is not None:
        mask[empty_row] = False
    w_NK = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[1] ** 0.5
    return pack(masked(w_NK, mask).to(dtype), block, mask)

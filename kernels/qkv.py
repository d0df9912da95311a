"""Query, key and value as one matrix.

    [Q | K | V] = X [Wq; Wk; Wv]ᵀ + [bq | bk | bv]

The three weights read the same X, so stacking their rows saves two launches and two readings of X. The results are
slices of one tensor; the kernels read such slices in place.

Legend: K in features, H out features of each of the three.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlcompress.kernels.block_sparse_linear import block_sparse_linear
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockSparseWeight, stack_rows


def fuse(
    weights: Sequence[BlockSparseWeight], biases: Sequence[Tensor] | None = None
) -> tuple[BlockSparseWeight, Tensor | None]:
    """The weight [3 H, K] and bias [3 H] of q, k and v, in that order.

    Raises:
        KernelInputError: not three weights of one shape, or they cannot be stacked.
    """
    shapes = [weight.pattern.shape for weight in weights]
    if len(weights) != 3 or len(set(shapes)) != 1:
        raise KernelInputError(f"q, k and v must be three weights of one shape, not {shapes}")
    return stack_rows(weights), None if biases is None else torch.cat(list(biases))


def block_sparse_qkv(
    x: Tensor, weight: BlockSparseWeight, bias: Tensor | None = None, backend: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """(q, k, v), each [..., H], from x [..., K] and a fused weight [3 H, K]."""
    q, k, v = block_sparse_linear(x, weight, bias, backend=backend).chunk(3, dim=-1)
    return q, k, v

"""The path for any device: one gather and one dense product for each output block row.

It computes what the Triton kernels compute, with plain PyTorch. It reads the stored blocks only, so it is also the
form in which a block-sparse layer is exported. It asks the host for the row pointers, so it is no path for CUDA graphs.

Legend: M rows of the input, N out features, K in features, R x C block, b blocks of one output, nnz stored blocks.
"""

import torch
from torch import Tensor


def product(
    x_MK: Tensor, values: Tensor, output: Tensor, source: Tensor, out_features: int, transposed: bool
) -> Tensor:
    """x Wᵀ, or x W where transposed: [M, out_features] in x's dtype.

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
    """dYᵀ X at the stored blocks: [nnz, R, C] in x's dtype."""
    height, width = block
    x_MkC = x_MK.contiguous().view(x_MK.shape[0], x_MK.shape[1] // width, width)
    dw = x_MK.new_empty(row.numel(), height, width)
    for index, blocks in _blocks_by_output(row):
        gathered = x_MkC.index_select(1, col[blocks].long()).flatten(1)
        strip = dy_MN[:, index * height : (index + 1) * height].T @ gathered
        dw[blocks] = strip.reshape(height, -1, width).transpose(0, 1)
    return dw


def _blocks_by_output(output: Tensor) -> list[tuple[int, Tensor]]:
    """(output block, its stored blocks), for the outputs that own any."""
    order = torch.argsort(output, stable=True)
    present, counts = torch.unique_consecutive(output[order], return_counts=True)
    return list(zip(present.tolist(), torch.split(order, counts.tolist()), strict=True))

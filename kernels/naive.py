"""The truth: every operator as plain PyTorch on the dense weight.

Tests and benchmarks compare with this file and nothing else, usually in float64.

Legend: M rows of the input, N out features, K in features.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlcompress.kernels.formats import BlockSparseWeight, unpack

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu")


def activate(z: Tensor, activation: str) -> Tensor:
    """Apply act elementwise: identity, exact GELU ½z(1 + erf(z/√2)), its tanh form, or max(z, 0)."""
    if activation == "gelu":
        return functional.gelu(z)
    if activation == "gelu_tanh":
        return functional.gelu(z, approximate="tanh")
    if activation == "relu":
        return functional.relu(z)
    return z


def activation_gradient(z: Tensor, dy: Tensor, activation: str) -> Tensor:
    """Multiply dy · act'(z) elementwise."""
    aten: Any = torch.ops.aten
    gradient: Tensor = dy
    if activation == "gelu":
        gradient = aten.gelu_backward(dy, z)
    elif activation == "gelu_tanh":
        gradient = aten.gelu_backward(dy, z, approximate="tanh")
    elif activation == "relu":
        gradient = torch.where(z > 0, dy, torch.zeros_like(dy))
    return gradient


def linear(
    x_MK: Tensor,
    w_NK: Tensor,
    bias_N: Tensor | None = None,
    activation: str = "none",
    residual_MN: Tensor | None = None,
) -> Tensor:
    """Compute act(x wᵀ + bias) + residual: [M, N]."""
    y_MN = activate(functional.linear(x_MK, w_NK, bias_N), activation)
    return y_MN if residual_MN is None else y_MN + residual_MN


def block_sparse_linear(
    x_MK: Tensor,
    weight: BlockSparseWeight,
    bias_N: Tensor | None = None,
    activation: str = "none",
    residual_MN: Tensor | None = None,
) -> Tensor:
    """Unpack the weight and do the same."""
    return linear(x_MK, unpack(weight), bias_N, activation, residual_MN)


def input_gradient(dy_MN: Tensor, weight: BlockSparseWeight) -> Tensor:
    """Multiply dX = dY W: [M, K]."""
    return dy_MN @ unpack(weight)


def values_gradient(dy_MN: Tensor, x_MK: Tensor, weight: BlockSparseWeight) -> Tensor:
    """Multiply dW = dYᵀ X at the stored blocks: [nnz, R, C]."""
    (height, width), pattern = weight.pattern.block, weight.pattern
    dw_NK = dy_MN.T @ x_MK
    dw_nkRC = dw_NK.reshape(-1, height, pattern.shape[1] // width, width).transpose(1, 2)
    return dw_nkRC[pattern.row.long(), pattern.col.long()]

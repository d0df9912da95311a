"""The feed-forward pair of a transformer layer, computed in chunks of rows.

    H = act(X Wuᵀ + bu),   Y = H Wdᵀ + bd + residual

H is four times as large as X. In chunks of rows it lives in one small buffer that stays in the L2 cache: the
down-projection reads it from there, and the next chunk overwrites it before it is written to memory. Nothing else
changes: the same kernels, a few more launches.

Legend: M rows, K model width, F inner width.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vlcompress.kernels import naive
from vlcompress.kernels.block_sparse_linear import check_call, resolve_backend, rows_contiguous, stream_tensors
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockSparseWeight

CHUNK_STEP = 128
DEFAULT_CACHE_BYTES = 40 << 20

_operators: Any = torch.ops.vlcompress


def block_sparse_feed_forward(
    x: Tensor,
    up: BlockSparseWeight,
    up_bias: Tensor | None,
    down: BlockSparseWeight,
    down_bias: Tensor | None,
    activation: str = "gelu",
    residual: Tensor | None = None,
    chunk: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """act(x upᵀ + up_bias) downᵀ + down_bias + residual: [..., K].

    The backward pass computes H again: nothing of width F is kept.

    Args:
        x: [..., K].
        up: [F, K].
        down: [K, F].
        residual: [..., K] or None.
        chunk: rows at a time; by default as many as keep H in half of the L2 cache (:func:`chunk_rows`).

    Raises:
        KernelInputError: as for ``block_sparse_linear``, for either projection, or the chunk is not positive.
    """
    check_call(x, up, up_bias, activation, None, backend)
    inner = up.pattern.shape[0]
    # What the down-projection will read: only its shape, dtype and device are looked at.
    check_call(x[..., :1].expand(*x.shape[:-1], inner), down, down_bias, activation, residual, backend)
    if chunk is not None and chunk < 1:
        raise KernelInputError(f"chunk is {chunk}: it must be at least 1, or None for the default")
    y_MK: Tensor = _operators.block_sparse_feed_forward(
        x.reshape(-1, x.shape[-1]),
        up.values,
        list(stream_tensors(up)),
        up_bias,
        down.values,
        list(stream_tensors(down)),
        down_bias,
        None if residual is None else residual.reshape(-1, down.pattern.shape[0]),
        [inner, down.pattern.shape[0]],
        chunk or 0,
        activation,
        backend,
    )
    return y_MK.view(*x.shape[:-1], down.pattern.shape[0])


def chunk_rows(inner: int, x: Tensor) -> int:
    """Rows of which H fills at most half of the L2 cache of x's device, in steps of ``CHUNK_STEP``."""
    rows = _cache_bytes(x.device) // 2 // (inner * x.element_size())
    return max(CHUNK_STEP, rows // CHUNK_STEP * CHUNK_STEP)


@lru_cache
def _cache_bytes(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).L2_cache_size) if device.type == "cuda" else DEFAULT_CACHE_BYTES


@torch.library.custom_op("vlcompress::block_sparse_feed_forward", mutates_args=())
def block_sparse_feed_forward_op(
    x_MK: Tensor,
    up_values: Tensor,
    up_index: Sequence[Tensor],
    up_bias: Tensor | None,
    down_values: Tensor,
    down_index: Sequence[Tensor],
    down_bias: Tensor | None,
    residual_MK: Tensor | None,
    out_features: Sequence[int],
    chunk: int,
    activation: str,
    backend: str,
) -> Tensor:
    """act(x upᵀ + up_bias) downᵀ + down_bias + residual: [M, K]; out_features is [F, K], chunk 0 the default."""
    chunk = chunk or chunk_rows(out_features[0], x_MK)
    chunks = [slice(start, start + chunk) for start in range(0, max(1, x_MK.shape[0]), chunk)]
    residuals = [None if residual_MK is None else residual_MK[rows] for rows in chunks]
    ready = up_values.shape[0] and down_values.shape[0] and x_MK.shape[0]
    if ready and resolve_backend(backend, x_MK) == "triton":
        weights = (up_values, *up_index, up_bias), (down_values, *down_index, down_bias)
        return _triton_chunks(rows_contiguous(x_MK), weights, residuals, chunks, list(out_features), activation)
    parts = []
    for rows, residual in zip(chunks, residuals, strict=True):
        h = _product(x_MK[rows], up_values, up_index, up_bias, None, out_features[0], activation, backend)
        parts.append(_product(h, down_values, down_index, down_bias, residual, out_features[1], "none", backend))
    return torch.cat(parts)


def _product(
    x: Tensor,
    values: Tensor,
    index: Sequence[Tensor],
    bias: Tensor | None,
    residual: Tensor | None,
    out_features: int,
    activation: str,
    backend: str,
    transposed: bool = False,
) -> Tensor:
    y: Tensor = _operators.block_sparse_product(
        x, values, *index, bias, residual, out_features, transposed, activation, backend
    )
    return y


def _triton_chunks(
    x_MK: Tensor,
    weights: Sequence[tuple[Any, ...]],
    residuals: Sequence[Tensor | None],
    chunks: Sequence[slice],
    out_features: list[int],
    activation: str,
) -> Tensor:
    """All chunks through one buffer for H."""
    from vlcompress.kernels import launch

    (up, _, _, up_walk, up_cuts, _, _, up_bias), (down, _, _, down_walk, down_cuts, _, _, down_bias) = weights
    inner, width = out_features
    y_MK = x_MK.new_empty(x_MK.shape[0], width)
    h_CF = x_MK.new_empty(min(chunks[0].stop, x_MK.shape[0]), inner)
    for rows, residual in zip(chunks, residuals, strict=True):
        x, y = x_MK[rows], y_MK[rows]
        h = h_CF[: x.shape[0]]
        launch.run(launch.Product(x, up, up_walk, up_cuts, inner, bias=up_bias), activation, out_MN=h)
        residual = None if residual is None else rows_contiguous(residual)
        product = launch.Product(h, down, down_walk, down_cuts, width, bias=down_bias, residual=residual)
        launch.run(product, out_MN=y)
    return y_MK


@block_sparse_feed_forward_op.register_fake
def _(x_MK: Tensor, *args: Any) -> Tensor:
    return x_MK.new_empty(x_MK.shape[0], args[7][1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, up, up_index, up_bias, down, down_index, _, residual, out_features, _, activation, backend = inputs
    ctx.save_for_backward(x, up, up_bias, down, *up_index, *down_index)
    ctx.inner, ctx.activation, ctx.backend = out_features[0], activation, backend
    ctx.has_residual, ctx.has_down_bias = residual is not None, inputs[6] is not None


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, up, up_bias, down, *index = ctx.saved_tensors
    up_index, down_index = index[: len(index) // 2], index[len(index) // 2 :]
    z = _product(x, up, up_index, up_bias, None, ctx.inner, "none", ctx.backend)
    dh = _product(dy, down, down_index, None, None, ctx.inner, "none", ctx.backend, transposed=True)
    dz = naive.activation_gradient(z, dh, ctx.activation)
    dx = _product(dz, up, up_index, None, None, x.shape[1], "none", ctx.backend, transposed=True)
    h = naive.activate(z, ctx.activation)
    values_gradient = _operators.block_sparse_values_gradient
    dup = values_gradient(dz, x, *up_index[:2], list(up.shape[1:]), ctx.backend)
    ddown = values_gradient(dy, h, *down_index[:2], list(down.shape[1:]), ctx.backend)
    dup_bias = None if up_bias is None else dz.sum(0)
    ddown_bias = dy.sum(0) if ctx.has_down_bias else None
    none = [None] * 6
    return dx, dup, none, dup_bias, ddown, none, ddown_bias, dy if ctx.has_residual else None, *[None] * 4


block_sparse_feed_forward_op.register_autograd(_backward, setup_context=_save)

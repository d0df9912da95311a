"""Several independent linears in one kernel launch.

    Y_i = act(X_i W_iᵀ + bias_i) + residual_i        for i in 0 .. count - 1

With few rows a product takes about as long as its launch. The streams of language and vision, or the heads of one
step, do not wait for each other: one launch of the pointer kernel computes up to ``LIMIT`` of them side by side,
each with its own shape.

Legend: M_i rows, N_i out features, K_i in features of the i-th linear.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlcompress.kernels.block_sparse_linear import (
    block_sparse_linear,
    check_call,
    resolve_backend,
    rows_contiguous,
)
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockSparseWeight

LIMIT = 4
"""Linears in one launch: each adds 14 parameters to the kernel and one comparison to each program."""

_operators: Any = torch.ops.vlcompress


def block_sparse_linears(
    xs: Sequence[Tensor],
    weights: Sequence[BlockSparseWeight],
    biases: Sequence[Tensor] | None = None,
    activation: str = "none",
    residuals: Sequence[Tensor] | None = None,
    backend: str = "auto",
) -> list[Tensor]:
    """[act(x Wᵀ + bias) + residual for each], in as few launches as possible.

    Where a gradient is wanted, each is computed by :func:`block_sparse_linear` on its own: training is not bound by
    launches.

    Args:
        xs: [..., K_i] each, all of one dtype.
        weights: [N_i, K_i] each, all of one block.
        biases: [N_i] each, or None for no bias at all.
        residuals: [..., N_i] each, or None.

    Raises:
        KernelInputError: as for ``block_sparse_linear``, or the lists or blocks do not match.
    """
    _check_lists(xs, weights, biases, residuals)
    rows = list(zip(xs, weights, _or_none(biases, len(xs)), _or_none(residuals, len(xs)), strict=True))
    for x, weight, bias, residual in rows:
        check_call(x, weight, bias, activation, residual, backend)
    if _wants_gradient(xs, weights, biases or (), residuals or ()):
        return [block_sparse_linear(x, w, bias, activation, residual, backend) for x, w, bias, residual in rows]
    ys: list[Tensor] = []
    for start in range(0, len(xs), LIMIT):
        ys += _launch(rows[start : start + LIMIT], activation, backend)
    return ys


def _launch(
    rows: Sequence[tuple[Tensor, BlockSparseWeight, Tensor | None, Tensor | None]], activation: str, backend: str
) -> list[Tensor]:
    xs, weights, biases, residuals = zip(*rows, strict=True)
    ys: list[Tensor] = _operators.block_sparse_products(
        [x.reshape(-1, x.shape[-1]) for x in xs],
        [w.values for w in weights],
        [w.pattern.row for w in weights],
        [w.pattern.col for w in weights],
        [w.pattern.forward.walk for w in weights],
        [w.pattern.forward.cuts for w in weights],
        [bias for bias in biases if bias is not None],
        [residual.reshape(-1, residual.shape[-1]) for residual in residuals if residual is not None],
        [w.pattern.shape[0] for w in weights],
        activation,
        backend,
    )
    return [y.view(*x.shape[:-1], y.shape[1]) for x, y in zip(xs, ys, strict=True)]


def _or_none(given: Sequence[Tensor] | None, count: int) -> list[Tensor | None]:
    return list(given) if given else [None] * count


def _wants_gradient(xs: Sequence[Tensor], weights: Sequence[BlockSparseWeight], *others: Sequence[Tensor]) -> bool:
    tensors = [*xs, *(w.values for w in weights), *(t for group in others for t in group)]
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _check_lists(
    xs: Sequence[Tensor],
    weights: Sequence[BlockSparseWeight],
    biases: Sequence[Tensor] | None,
    residuals: Sequence[Tensor] | None,
) -> None:
    counts = {"weights": len(weights), "biases": len(biases or xs), "residuals": len(residuals or xs)}
    for name, count in counts.items():
        if count != len(xs):
            raise KernelInputError(f"{count} {name} for {len(xs)} inputs: give one for each, or none")
    first = weights[0].pattern.block if weights else None
    for x, weight in zip(xs, weights, strict=True):
        if weight.pattern.block != first or x.dtype != xs[0].dtype:
            raise KernelInputError(
                f"block {weight.pattern.block} in {x.dtype} does not go in one launch with {first} in {xs[0].dtype}"
            )


@torch.library.custom_op("vlcompress::block_sparse_products", mutates_args=())
def block_sparse_products(
    xs: Sequence[Tensor],
    values: Sequence[Tensor],
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    walks: Sequence[Tensor],
    cuts: Sequence[Tensor],
    biases: Sequence[Tensor],
    residuals: Sequence[Tensor],
    out_features: Sequence[int],
    activation: str,
    backend: str,
) -> list[Tensor]:
    """[act(x Wᵀ + bias) + residual for each]; empty lists of biases and residuals mean none."""
    count = len(xs)
    optional_biases, optional_residuals = _or_none(biases, count), _or_none(residuals, count)
    empty = any(v.shape[0] == 0 or x.shape[0] == 0 for v, x in zip(values, xs, strict=True))
    if resolve_backend(backend, xs[0]) == "triton" and not empty:
        from vlcompress.kernels import launch

        given = zip(xs, values, walks, cuts, out_features, optional_biases, optional_residuals, strict=True)
        products = [
            launch.Product(
                rows_contiguous(x),
                stored.contiguous(),
                walk,
                cut,
                n,
                bias=bias,
                residual=None if residual is None else rows_contiguous(residual),
            )
            for x, stored, walk, cut, n, bias, residual in given
        ]
        return launch.run_together(products, activation)
    return [
        _operators.block_sparse_product(
            xs[i], values[i], rows[i], cols[i], walks[i], cuts[i], walks[i], cuts[i],
            optional_biases[i], optional_residuals[i], out_features[i], False, activation, backend,
        )
        for i in range(count)
    ]  # fmt: skip


@block_sparse_products.register_fake
def _(xs: Sequence[Tensor], *args: Any) -> list[Tensor]:
    return [x.new_empty(x.shape[0], n) for x, n in zip(xs, args[7], strict=True)]

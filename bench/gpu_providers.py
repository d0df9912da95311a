"""What the block-sparse kernels are measured against, each as a call on given inputs.

A provider that cannot run here (a missing library, a block that it does not take) raises; the script records why.

Legend: M rows of the input, N out features, K in features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlcompress.kernels.block_sparse_linear import block_sparse_linear
from vlcompress.kernels.ffn import block_sparse_feed_forward
from vlcompress.kernels.formats import BlockSparseWeight, unpack

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Linear:
    """One linear with its inputs: x [M, K], weight [N, K] in blocks and dense, bias [N]."""

    x: Tensor
    weight: BlockSparseWeight
    w_NK: Tensor
    bias: Tensor
    activation: str


def ours(case: Linear) -> Call:
    """The block-sparse kernels with the table's configuration."""
    return lambda: block_sparse_linear(case.x, case.weight, case.bias, case.activation)


def cublas(case: Linear) -> Call:
    """F.linear, and F.gelu as a kernel of its own where an activation is asked for."""
    if case.activation == "none":
        return lambda: functional.linear(case.x, case.w_NK, case.bias)
    return lambda: functional.gelu(functional.linear(case.x, case.w_NK, case.bias))


def compiled(case: Linear) -> Call:
    """The same through torch.compile, which may fuse the activation and tune its own product."""

    def dense(x: Tensor, w_NK: Tensor, bias: Tensor) -> Tensor:
        y = functional.linear(x, w_NK, bias)
        return functional.gelu(y) if case.activation != "none" else y

    run: Any = torch.compile(dense, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda: run(case.x, case.w_NK, case.bias)


def torch_bsr(case: Linear, num_stages: int | None = None) -> Call:
    """torch's own BSR kernel; with its table's setting, or with a pipeline of `num_stages`."""
    from torch.sparse import _triton_ops as operators

    height, width = case.weight.pattern.block
    if height != width:
        raise ValueError(f"torch's kernel is only tuned for square blocks, not {height}x{width}")
    bsr = case.w_NK.to_sparse_bsr((height, width))
    m, (n, k) = case.x.shape[0], case.w_NK.shape
    bias = case.bias[:, None].expand(n, m).contiguous()
    make_meta: Any = operators.bsr_dense_addmm_meta
    meta = None
    if num_stages is not None:
        meta = make_meta(n, k, m, height, width, 1, 1, num_stages=num_stages)
    run: Any = operators.bsr_dense_addmm

    def call() -> Tensor:
        y = run(bias, bsr, case.x.T, skip_checks=True, meta=None if meta is None else dict(meta)).T
        return functional.gelu(y) if case.activation != "none" else y

    return call


def semi_structured(case: Linear) -> Call:
    """2:4 sparsity by cuSPARSELt: always 50 %, of whichever elements the format keeps, so its result is not
    compared."""
    from torch.sparse import to_sparse_semi_structured

    keep = torch.tensor([1, 1, 0, 0], device=case.x.device, dtype=case.x.dtype)
    w_NK: Any = to_sparse_semi_structured(case.w_NK * keep.repeat(case.w_NK.shape[1] // 4))
    return lambda: functional.linear(case.x, w_NK, case.bias)


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward pair with its inputs."""

    x: Tensor
    up: BlockSparseWeight
    down: BlockSparseWeight
    up_bias: Tensor
    down_bias: Tensor


def ours_ffn(case: FeedForward, chunk: int | None = None) -> Call:
    """Both products with everything fused, in chunks of rows."""
    return lambda: block_sparse_feed_forward(
        case.x, case.up, case.up_bias, case.down, case.down_bias, "gelu", case.x, chunk
    )


def cublas_ffn(case: FeedForward, compile_it: bool = False) -> Call:
    """Dense products, GELU and residual, as they are or through torch.compile."""
    w_up, w_down = unpack(case.up), unpack(case.down)

    def dense(x: Tensor) -> Tensor:
        h = functional.gelu(functional.linear(x, w_up, case.up_bias))
        return functional.linear(h, w_down, case.down_bias) + x

    run: Any = torch.compile(dense, mode="max-autotune-no-cudagraphs", dynamic=False) if compile_it else dense
    return lambda: run(case.x)

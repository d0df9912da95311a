"""The gradient of the stored blocks.

    dW[b] = dY[:, rows of b]ᵀ X[:, columns of b]        for each stored block b, and for no other

(dX needs no kernel of its own: it is the product by the transposed work list.)
"""

import triton
import triton.language as tl


@triton.jit
def values_gradient(
    dy_ptr,
    x_ptr,
    row_ptr,
    col_ptr,
    partial_ptr,
    M,
    nnz,
    stride_dym,
    stride_xm,
    SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """partial[s] = dYᵀ X over the s-th share of the M rows, at the stored blocks: fp32 [SPLIT, nnz, R, C].

    dY [M, N], X [M, K], row and col [nnz]. BLOCK_T rows a step. Grid: (nnz, SPLIT).
    """
    block = tl.program_id(0)
    share = tl.program_id(1)
    offs_n = tl.load(row_ptr + block) * R + tl.arange(0, R)
    offs_k = tl.load(col_ptr + block) * C + tl.arange(0, C)
    steps = tl.cdiv(M, BLOCK_T)
    begin = steps * share // SPLIT
    end = steps * (share + 1) // SPLIT

    acc = tl.zeros((R, C), dtype=tl.float32)
    for step in tl.range(begin, end, num_stages=STAGES):
        offs_t = (step * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
        row_ok = offs_t[:, None] < M
        dy = tl.load(dy_ptr + offs_t[:, None] * stride_dym + offs_n[None, :], mask=row_ok, other=0.0)
        x = tl.load(x_ptr + offs_t[:, None] * stride_xm + offs_k[None, :], mask=row_ok, other=0.0)
        acc = tl.dot(tl.trans(dy), x, acc, input_precision=PRECISION)

    element = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    tl.store(partial_ptr + (share.to(tl.int64) * nnz + block) * (R * C) + element, acc)

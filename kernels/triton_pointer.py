"""The stream kernel with plain pointers: the path of sm_80 and of unaligned inputs.

    Y = act(X Wᵀ + bias) + residual        (or X W, along the transposed stream)

Legend: X [M, K] with any row stride, W stored as values [nnz, R, C], Y [M, N] contiguous. OUT and RED are the sides
of a stored block over the output and over the reduction: (R, C) forward, (C, R) transposed; the values are the same.

A program owns BLOCK_M rows of X and one part of the stream. It walks its entries in one loop that never restarts: the
output tile is finished and stored inside the step that is flagged last. The entry of the next step is loaded one
step ahead, because the software pipeliner halves its ring for an index that is loaded in the step that uses it.
"""

import triton
import triton.language as tl

from vlcompress.kernels.triton_epilogue import finish
from vlcompress.kernels.triton_stream import input_block, is_last, output_block, slot


# Counts that change with the batch, and where the cuts start, are not specialised: each specialisation is a compile.
@triton.jit(do_not_specialize=["M", "parts"], do_not_specialize_on_alignment=["cuts_ptr"])
def stream_pointer(
    x_ptr,
    values_ptr,
    walk_ptr,
    cuts_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    parts,
    M,
    N,
    stride_xm,
    stride_rm,
    nnz,
    BLOCK_M: tl.constexpr,
    OUT: tl.constexpr,
    RED: tl.constexpr,
    STRIDE_OUT: tl.constexpr,
    STRIDE_RED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HARDWARE_TANH: tl.constexpr,
    EVEN_M: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Y = act(X Wᵀ + bias) + residual.

    Shapes: X [M, K], values [nnz, R, C], bias [N], residual and Y [M, N]. Grid: parts for each panel of BLOCK_M rows.
    """
    program = tl.program_id(0)
    # Panel-major: programs that run together share the panel of X in L2.
    panel = program // parts
    part = program % parts
    offs_m = panel.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_out = tl.arange(0, OUT)
    offs_red = tl.arange(0, RED)
    x_tile = x_ptr + offs_m[:, None] * stride_xm + offs_red[None, :]
    w_tile = values_ptr + offs_red[:, None] * STRIDE_RED + offs_out[None, :] * STRIDE_OUT
    row_ok = offs_m[:, None] < M

    begin = tl.load(cuts_ptr + part)
    end = tl.load(cuts_ptr + part + 1)
    acc = tl.zeros((BLOCK_M, OUT), dtype=tl.float32)
    ahead = tl.load(walk_ptr + begin)
    for i in tl.range(begin, end, num_stages=STAGES):
        entry = ahead
        x_at = x_tile + input_block(entry) * RED
        if EVEN_M:
            x = tl.load(x_at)
        else:
            x = tl.load(x_at, mask=row_ok, other=0.0)
        stored = slot(entry)
        w = tl.load(w_tile + stored.to(tl.int64) * (OUT * RED), mask=stored < nnz, other=0.0)
        ahead = tl.load(walk_ptr + i + 1)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        if is_last(entry):
            offs_n = output_block(entry) * OUT + offs_out
            done = finish(
                acc, bias_ptr, residual_ptr, offs_m, offs_n, stride_rm, M,
                HAS_BIAS, HAS_RESIDUAL, ACTIVATION, HARDWARE_TANH,
            )  # fmt: skip
            y_at = y_ptr + offs_m[:, None] * N + offs_n[None, :]
            tl.store(y_at, done.to(y_ptr.dtype.element_ty), mask=row_ok)
            acc = tl.zeros((BLOCK_M, OUT), dtype=tl.float32)

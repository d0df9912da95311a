"""The stream kernel with plain pointers: the path of sm_80, of unaligned inputs and of several linears in one launch.

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


@triton.jit
def stream_pointer(
    x_ptrs,
    values_ptrs,
    walk_ptrs,
    cuts_ptrs,
    bias_ptrs,
    residual_ptrs,
    y_ptrs,
    first_programs,
    part_counts,
    Ms,
    Ns,
    strides_xm,
    strides_rm,
    nnzs,
    COUNT: tl.constexpr,
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
    """COUNT independent linears: Y_i = act(X_i W_iᵀ + bias_i) + residual_i.

    Every argument in the plural is a tuple of COUNT. Problem i owns the programs from first_programs[i] on,
    part_counts[i] for each panel of BLOCK_M rows.
    Shapes: X_i [M_i, K_i], values_i [nnz_i, R, C], bias_i [N_i], residual_i and Y_i [M_i, N_i].
    """
    program = tl.program_id(0)
    x_ptr, values_ptr, walk_ptr, cuts_ptr = x_ptrs[0], values_ptrs[0], walk_ptrs[0], cuts_ptrs[0]
    bias_ptr, residual_ptr, y_ptr = bias_ptrs[0], residual_ptrs[0], y_ptrs[0]
    first, parts, M, N = first_programs[0], part_counts[0], Ms[0], Ns[0]
    stride_xm, stride_rm, nnz = strides_xm[0], strides_rm[0], nnzs[0]
    for i in tl.static_range(1, COUNT):
        if program >= first_programs[i]:
            x_ptr, values_ptr, walk_ptr, cuts_ptr = x_ptrs[i], values_ptrs[i], walk_ptrs[i], cuts_ptrs[i]
            bias_ptr, residual_ptr, y_ptr = bias_ptrs[i], residual_ptrs[i], y_ptrs[i]
            first, parts, M, N = first_programs[i], part_counts[i], Ms[i], Ns[i]
            stride_xm, stride_rm, nnz = strides_xm[i], strides_rm[i], nnzs[i]

    # Panel-major: programs that run together share the panel of X in L2.
    panel = (program - first) // parts
    part = (program - first) % parts
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

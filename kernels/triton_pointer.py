"""The product kernel with plain pointers: the path of sm_80, of unaligned inputs and of few rows.

    Y = act(X Wᵀ + bias) + residual        (or X W, by the transposed work list)

Legend: X [M, K] with any row stride, W stored as values [nnz, R, C], Y [M, N] contiguous. OUT and RED are the sides
of a stored block over the output and over the reduction: (R, C) forward, (C, R) transposed; the values are the same.

A program owns BLOCK_M rows of X and one part of the work list. One loop over its entries never restarts: the output
tile is finished and stored inside the step that is flagged last. The entry of the next step is loaded one
step ahead, because the software pipeliner halves its ring for an index that is loaded in the step that uses it.

With SPLITS_OUTPUTS parts may begin and end inside an output; what a program has of such an output goes to `partial` in
fp32, and triton_pieces.py adds it. With SWAPPED a step is Yᵀ = W Xᵀ: 16 or 32 rows of X would leave most of a 64-row
wgmma empty, the block's rows fill it.
"""

import triton
import triton.language as tl

from vlcompress.kernels.triton_epilogue import store_output
from vlcompress.kernels.triton_work_list import (
    even_cut,
    falls_inside,
    input_block,
    is_last,
    locate,
    output_block,
    piece_rows,
    slot,
)


# Counts that change with the batch, and where the cuts start, are not specialised: each specialisation is a compile.
@triton.jit(do_not_specialize=["M", "parts", "group", "entries"], do_not_specialize_on_alignment=["cuts_ptr"])
def product_pointer(
    x_ptr,
    values_ptr,
    steps_ptr,
    cuts_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    partial_ptr,
    entries,
    parts,
    group,
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
    SWAPPED: tl.constexpr,
    SPLITS_OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Y = act(X Wᵀ + bias) + residual.

    Shapes: X [M, K], values [nnz, R, C], bias [N], residual and Y [M, N], partial [parts, 2, M, OUT].
    Grid: parts for each row tile of BLOCK_M rows.
    """
    row_tile, part = locate(tl.program_id(0), parts, tl.cdiv(M, BLOCK_M), group)
    offs_m = row_tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_out = tl.arange(0, OUT)
    offs_red = tl.arange(0, RED)
    x_tile = x_ptr + offs_m[:, None] * stride_xm + offs_red[None, :]
    w_tile = values_ptr + offs_red[:, None] * STRIDE_RED + offs_out[None, :] * STRIDE_OUT
    row_ok = offs_m[:, None] < M

    if SPLITS_OUTPUTS:
        begin = even_cut(entries, parts, part)
        end = even_cut(entries, parts, part + 1)
        begun = falls_inside(steps_ptr, begin)
    else:
        begin = tl.load(cuts_ptr + part)
        end = tl.load(cuts_ptr + part + 1)
    acc = zeros(BLOCK_M, OUT, SWAPPED)
    ahead = tl.load(steps_ptr + begin)
    for i in tl.range(begin, end, num_stages=STAGES):
        entry = ahead
        x_at = x_tile + input_block(entry) * RED
        if EVEN_M:
            x = tl.load(x_at)
        else:
            x = tl.load(x_at, mask=row_ok, other=0.0)
        stored = slot(entry)
        w_at = w_tile + stored.to(tl.int64) * (OUT * RED)
        # Spread over the tile: Triton 3.9's interpreter refuses a scalar mask, and the machine code is the same.
        w = tl.load(w_at, mask=tl.full((RED, OUT), stored, tl.int32) < nnz, other=0.0)
        ahead = tl.load(steps_ptr + i + 1)
        if SWAPPED:
            acc = tl.dot(tl.trans(w), tl.trans(x), acc, input_precision=PRECISION)
        else:
            acc = tl.dot(x, w, acc, input_precision=PRECISION)
        if is_last(entry):
            tile = tl.trans(acc) if SWAPPED else acc
            first_n = output_block(entry) * OUT
            if SPLITS_OUTPUTS:
                if begun:
                    tl.store(piece_rows(partial_ptr, part, 0, offs_m, M, OUT) + offs_out[None, :], tile, mask=row_ok)
                else:
                    store_output(
                        tile, y_ptr, bias_ptr, residual_ptr, offs_m, first_n + offs_out, stride_rm, M, N,
                        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, HARDWARE_TANH,
                    )  # fmt: skip
                begun = 0
            else:
                store_output(
                    tile, y_ptr, bias_ptr, residual_ptr, offs_m, first_n + offs_out, stride_rm, M, N,
                    HAS_BIAS, HAS_RESIDUAL, ACTIVATION, HARDWARE_TANH,
                )  # fmt: skip
            acc = zeros(BLOCK_M, OUT, SWAPPED)
    if SPLITS_OUTPUTS:  # noqa: SIM102 (`and` would make the compile-time test a run-time one)
        if falls_inside(steps_ptr, end):
            tile = tl.trans(acc) if SWAPPED else acc
            tl.store(piece_rows(partial_ptr, part, 1, offs_m, M, OUT) + offs_out[None, :], tile, mask=row_ok)


@triton.jit
def zeros(BLOCK_M: tl.constexpr, OUT: tl.constexpr, SWAPPED: tl.constexpr):
    """An empty accumulator [BLOCK_M, OUT], or its transpose."""
    return tl.zeros((OUT, BLOCK_M), dtype=tl.float32) if SWAPPED else tl.zeros((BLOCK_M, OUT), dtype=tl.float32)

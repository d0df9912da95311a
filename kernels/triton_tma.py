"""The product kernel with tensor memory access (TMA): the path of sm_90 and later.

    Y = act(X Wᵀ + bias) + residual        (or X W, by the transposed work list)

The same loop as in triton_pointer.py. X, the values and Y are described to the copy engine by tensor descriptors, which
are made on the host and passed by value: one instruction of one thread brings a tile, already swizzled for wgmma,
and rows beyond M or a slot beyond nnz are read as zeros and never written.

The order is X Wᵀ, not W Xᵀ: the rows of X fill the 64 rows that wgmma wants, so blocks down to 16 wide stay on wgmma.
"""

import triton
import triton.language as tl

from vlcompress.kernels.triton_epilogue import finish
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
def product_tma(
    x_desc,
    values_desc,
    steps_ptr,
    cuts_ptr,
    bias_ptr,
    residual_ptr,
    y_desc,
    partial_ptr,
    entries,
    parts,
    group,
    M,
    stride_rm,
    BLOCK_M: tl.constexpr,
    OUT: tl.constexpr,
    RED: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HARDWARE_TANH: tl.constexpr,
    SPLITS_OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Y = act(X Wᵀ + bias) + residual, or X W where TRANSPOSED.

    x_desc: X [M, K] in boxes [BLOCK_M, RED]; values_desc: the values as [nnz * R, C] in boxes [R, C]; y_desc: Y [M,
    N] in boxes [BLOCK_M, OUT]; bias [N]; residual [M, N]; partial fp32 [parts, 2, M, OUT]. (OUT, RED) is (R, C), or
    (C, R) where TRANSPOSED.
    """
    row_tile, part = locate(tl.program_id(0), parts, tl.cdiv(M, BLOCK_M), group)
    offs_m = row_tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_out = tl.arange(0, OUT)
    if SPLITS_OUTPUTS:
        begin = even_cut(entries, parts, part)
        end = even_cut(entries, parts, part + 1)
        begun = falls_inside(steps_ptr, begin)
    else:
        begin = tl.load(cuts_ptr + part)
        end = tl.load(cuts_ptr + part + 1)
    acc = tl.zeros((BLOCK_M, OUT), dtype=tl.float32)
    ahead = tl.load(steps_ptr + begin)
    for i in tl.range(begin, end, num_stages=STAGES):
        entry = ahead
        x = x_desc.load([row_tile * BLOCK_M, input_block(entry) * RED])
        if TRANSPOSED:
            w = values_desc.load([slot(entry) * RED, 0])
        else:
            w = values_desc.load([slot(entry) * OUT, 0]).T
        ahead = tl.load(steps_ptr + i + 1)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        if is_last(entry):
            whole = 1
            if SPLITS_OUTPUTS:
                whole = 1 - begun
                if begun:
                    at = piece_rows(partial_ptr, part, 0, offs_m, M, OUT) + offs_out[None, :]
                    tl.store(at, acc, mask=offs_m[:, None] < M)
                begun = 0
            if whole:
                first_n = output_block(entry) * OUT
                done = finish(
                    acc, bias_ptr, residual_ptr, offs_m, first_n + offs_out, stride_rm, M,
                    HAS_BIAS, HAS_RESIDUAL, ACTIVATION, HARDWARE_TANH,
                )  # fmt: skip
                y_desc.store([row_tile * BLOCK_M, first_n], done.to(y_desc.dtype))
            acc = tl.zeros((BLOCK_M, OUT), dtype=tl.float32)
    if SPLITS_OUTPUTS:  # noqa: SIM102 (`and` would make the compile-time test a run-time one)
        if falls_inside(steps_ptr, end):
            at = piece_rows(partial_ptr, part, 1, offs_m, M, OUT) + offs_out[None, :]
            tl.store(at, acc, mask=offs_m[:, None] < M)

"""The kernels for few rows (M up to about 64): operands swapped, reduction split.

    Yᵀ = W Xᵀ, in SPLIT pieces:  partial[s] = W[:, piece s] X[:, piece s]ᵀ,  Y = act(sum of partials + bias) + residual

With 32 rows of X, X Wᵀ would leave half of a 64-row wgmma empty; swapped, the block's rows fill it. One program an
output block leaves most of the chip idle, so the blocks of an output are split among SPLIT programs. The partial
sums go through fp32 memory and are added in a fixed order by a second kernel: the result is the same in every run,
unlike with atomics.
"""

import triton
import triton.language as tl

from vlcompress.kernels.triton_epilogue import finish
from vlcompress.kernels.triton_stream import input_block, output_block, slot


@triton.jit(do_not_specialize_on_alignment=["ends_ptr"])
def split_rows(
    x_ptr,
    values_ptr,
    walk_ptr,
    ends_ptr,
    partial_ptr,
    M,
    N,
    stride_xm,
    nnz,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OUT: tl.constexpr,
    RED: tl.constexpr,
    STRIDE_OUT: tl.constexpr,
    STRIDE_RED: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """partial[s] = X[:, piece s] W[:, piece s]ᵀ, fp32 [SPLIT, M, N]; a piece without blocks writes zeros.

    X [M, K], values [nnz, R, C]; ends [N/OUT + 1]: where each output starts in the walk.
    Grid: (N/OUT * SPLIT, cdiv(M, BLOCK_M)).
    """
    output = tl.program_id(0) // SPLIT
    piece = tl.program_id(0) % SPLIT
    offs_m = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_out = tl.arange(0, OUT)
    offs_red = tl.arange(0, RED)

    start = tl.load(ends_ptr + output)
    steps = tl.load(ends_ptr + output + 1) - start
    begin = start + steps * piece // SPLIT
    end = start + steps * (piece + 1) // SPLIT
    ahead = tl.load(walk_ptr + begin)
    # Where the output goes is the same for every entry of this output, the first one included.
    first_n = output_block(tl.load(walk_ptr + start)) * OUT

    xT_tile = x_ptr + offs_red[:, None] + offs_m[None, :] * stride_xm
    w_tile = values_ptr + offs_out[:, None] * STRIDE_OUT + offs_red[None, :] * STRIDE_RED
    accT = tl.zeros((OUT, BLOCK_M), dtype=tl.float32)
    for i in tl.range(begin, end, num_stages=STAGES):
        entry = ahead
        xT = tl.load(xT_tile + input_block(entry) * RED, mask=offs_m[None, :] < M, other=0.0)
        stored = slot(entry)
        w = tl.load(w_tile + stored.to(tl.int64) * (OUT * RED), mask=stored < nnz, other=0.0)
        ahead = tl.load(walk_ptr + i + 1)
        accT = tl.dot(w, xT, accT, input_precision=PRECISION)

    at = partial_ptr + (piece.to(tl.int64) * M + offs_m)[:, None] * N + (first_n + offs_out)[None, :]
    tl.store(at, tl.trans(accT), mask=offs_m[:, None] < M)


@triton.jit
def add_pieces(
    partial_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    M,
    N,
    stride_rm,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HARDWARE_TANH: tl.constexpr,
):
    """Y = act(sum over s of partial[s] + bias) + residual; partial fp32 [SPLIT, M, N], Y [M, N].

    Grid: (N / BLOCK_N, cdiv(M, BLOCK_M)); N is a multiple of 16, so BLOCK_N = 16 always divides it.
    """
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_m = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = offs_m[:, None] < M
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for piece in tl.static_range(SPLIT):
        at = partial_ptr + (piece * M + offs_m)[:, None] * N + offs_n[None, :]
        acc += tl.load(at, mask=row_ok, other=0.0)
    done = finish(
        acc, bias_ptr, residual_ptr, offs_m, offs_n, stride_rm, M,
        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, HARDWARE_TANH,
    )  # fmt: skip
    tl.store(y_ptr + offs_m[:, None] * N + offs_n[None, :], done.to(y_ptr.dtype.element_ty), mask=row_ok)

"""Adding the pieces of outputs that a cut fell into.

    Y = act(sum of pieces + bias) + residual

Where a work list is cut anywhere (partition.py), a program leaves at most two pieces: of the output that its part
begins inside of, and of the one that it ends inside of. They are added here in the order of the work list, so the
result has the same bits in every run, unlike with atomics.
"""

import triton
import triton.language as tl

from vlcompress.kernels.triton_epilogue import store_output
from vlcompress.kernels.triton_work_list import even_cut, falls_inside, output_block, piece_rows


@triton.jit(do_not_specialize=["M", "parts", "entries"])
def add_pieces(
    steps_ptr,
    partial_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    entries,
    parts,
    M,
    N,
    stride_rm,
    BLOCK_M: tl.constexpr,
    OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HARDWARE_TANH: tl.constexpr,
):
    """Finish the output that cut `program_id(0) + 1` falls into, if it is the first cut to do so.

    steps: the work list; partial fp32 [parts, 2, M, OUT]; Y [M, N]. Grid: (parts - 1, cdiv(M, BLOCK_M)).
    """
    part = tl.program_id(0) + 1
    begin = even_cut(entries, parts, part)
    output = output_block(tl.load(steps_ptr + begin))
    if falls_inside(steps_ptr, begin) & (1 - reaches(steps_ptr, even_cut(entries, parts, part - 1), output)):
        offs_m = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
        offs_out = tl.arange(0, OUT)
        row_ok = offs_m[:, None] < M
        at = piece_rows(partial_ptr, part - 1, 1, offs_m, M, OUT) + offs_out[None, :]
        acc = tl.load(at, mask=row_ok, other=0.0)
        more = 1
        while more == 1:
            more = reaches(steps_ptr, even_cut(entries, parts, part + 1), output)
            at = piece_rows(partial_ptr, part, more, offs_m, M, OUT) + offs_out[None, :]
            acc += tl.load(at, mask=row_ok, other=0.0)
            part += 1
        store_output(
            acc, y_ptr, bias_ptr, residual_ptr, offs_m, output * OUT + offs_out, stride_rm, M, N,
            HAS_BIAS, HAS_RESIDUAL, ACTIVATION, HARDWARE_TANH,
        )  # fmt: skip


@triton.jit
def reaches(steps_ptr, position, output):
    """Whether a cut at this position falls into this output: 1 or 0."""
    return falls_inside(steps_ptr, position) & (output_block(tl.load(steps_ptr + position)) == output).to(tl.int32)

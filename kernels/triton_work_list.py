"""What the product kernels share: reading packed entries (work_list.py has the bit layout, and a test holds the two
together), and which part of the work list and which row tile of X a program owns (partition.py)."""

import triton
import triton.language as tl


@triton.jit
def input_block(entry):
    """Which block of the input this step reads."""
    return entry.to(tl.int32) & 0x7FFF


@triton.jit
def is_last(entry):
    """Whether this step completes its output block."""
    return (entry.to(tl.int32) >> 15) & 1


@triton.jit
def output_block(entry):
    """Which block of the output this step adds to."""
    return entry.to(tl.int32) >> 16


@triton.jit
def slot(entry):
    """Which stored block this step multiplies with; nnz (one past the end) stands for a block of zeros."""
    return (entry >> 32).to(tl.int32)


@triton.jit
def locate(program, parts, row_tiles, group):
    """Find a program's row tile and part: `group` row tiles at a time, and within them all first parts first."""
    start = program // (group * parts) * group
    width = tl.minimum(row_tiles - start, group)
    within = program - start * parts
    return start + within % width, within // width


@triton.jit
def even_cut(entries, parts, part):
    """Where a part begins in a work list that is cut anywhere."""
    return (entries.to(tl.int64) * part // parts).to(tl.int32)


@triton.jit
def falls_inside(steps_ptr, position):
    """Whether a cut at this position falls into an output: 1 or 0."""
    before = tl.load(steps_ptr + tl.maximum(position - 1, 0))
    return (position > 0).to(tl.int32) & (1 - is_last(before))


@triton.jit
def piece_rows(partial_ptr, part, side, offs_m, M, OUT: tl.constexpr):
    """Addresses [BLOCK_M, 1] of the rows of a piece: of the output that a part begins inside of (side 0), or that it
    ends inside of (side 1). partial is fp32 [parts, 2, M, OUT]."""
    return partial_ptr + (((part * 2 + side).to(tl.int64) * M + offs_m) * OUT)[:, None]

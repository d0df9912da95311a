"""Reading the packed entries of a stream; formats.py has the bit layout, and a test holds the two together."""

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

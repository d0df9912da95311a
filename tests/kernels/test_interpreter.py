"""The mended interpreter multiplies bf16 right, and counts in a loop whose bounds are loaded."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl


@triton.jit
def repeated_product(x_ptr, times_ptr, y_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    x = tl.load(x_ptr + at)
    acc = tl.zeros((SIZE, SIZE), dtype=tl.float32)
    for _ in range(tl.load(times_ptr)):
        acc = tl.dot(x, x, acc)
    tl.store(y_ptr + at, acc)


def test_products_of_bf16_and_loaded_bounds(interpreted: Any) -> None:
    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    y = torch.zeros(16, 16)
    repeated_product[(1,)](x, torch.tensor([3], dtype=torch.int32), y, SIZE=16)
    torch.testing.assert_close(y, 3 * (x.float() @ x.float()), rtol=1e-5, atol=1e-5)


def test_what_is_mended_is_not_mended_again(interpreted: Any) -> None:
    from triton.runtime import interpreter as triton_interpreter

    from vlcompress.kernels import interpreter

    assert not interpreter.dots_multiply_bits()
    before = triton_interpreter.InterpreterBuilder.create_dot, triton_interpreter._patch_lang_tensor
    interpreter.mend()
    assert before == (triton_interpreter.InterpreterBuilder.create_dot, triton_interpreter._patch_lang_tensor)

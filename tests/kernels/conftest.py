"""Kernel tests run in Triton's interpreter, on the CPU, with poisoned memory.

The interpreter is chosen when a kernel module is imported, so this file sets it before any test imports one. Two of its
defects are mended:

- ``tl.dot`` of bf16 tiles multiplies the raw bit patterns, without an error (triton-lang/triton#11584). Widening the
  operands to fp32 is what the tensor cores do: the products are exact there, only the order of the sums differs.
- ``range`` over a Triton scalar fails with NumPy 2.4 and Triton 3.6.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
os.environ["TRITON_INTERPRET"] = "1"


def _mend_interpreter() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    create_dot = interpreter.InterpreterBuilder.create_dot
    patch_tensor = interpreter._patch_lang_tensor

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return interpreter.TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])

    interpreter.InterpreterBuilder.create_dot = dot
    interpreter._patch_lang_tensor = patched


if HAS_TRITON:
    _mend_interpreter()


@pytest.fixture
def interpreted() -> Any:
    """The launch module, with its kernels interpreted; skips where Triton is not installed."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from vlcompress.kernels import launch

    assert launch.INTERPRETED, "a kernel was imported before this file could choose the interpreter"
    return launch


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every uninitialised float tensor starts as NaN, so an output element that nobody writes is seen."""

    def poison(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poisoned_create(*args: Any, **kwargs: Any) -> Tensor:
            tensor = create(*args, **kwargs)
            if tensor.is_floating_point():
                tensor.detach().fill_(float("nan"))
            return tensor

        return poisoned_create

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(Tensor, "new_empty", poison(Tensor.new_empty))


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """The norm of the difference over the norm of the truth, in float64; NaN anywhere is an error of its own."""

    def error(found: Tensor, truth: Tensor) -> float:
        assert found.shape == truth.shape
        assert torch.isfinite(found).all(), "an output element was not written"
        return float((found.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30))

    return error

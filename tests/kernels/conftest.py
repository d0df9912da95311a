"""Kernel tests run in Triton's interpreter, on the CPU, with poisoned memory.

The interpreter is chosen when a kernel module is imported, so this file sets it before any test imports one.
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

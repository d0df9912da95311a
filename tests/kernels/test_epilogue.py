"""The activations of the kernels, alone."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from vlcompress.kernels import triton_epilogue


@triton.jit
def activate_all(z_ptr, y_ptr, SIZE: tl.constexpr, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.arange(0, SIZE)
    tl.store(y_ptr + offsets, triton_epilogue.activate(tl.load(z_ptr + offsets), ACTIVATION, False))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # tanh by exp saturates, as it should
@pytest.mark.parametrize("reach", [8.0, 1000.0])
def test_fitted_gelu_is_within_its_bound(reach: float, interpreted: Any) -> None:
    """The documented 2.6e-5 for every z, far beyond where the fit was made."""
    z = torch.linspace(-reach, reach, 65536)
    y = torch.empty_like(z)
    activate_all[(1,)](z, y, SIZE=65536, ACTIVATION=2)
    assert float((y.double() - torch.nn.functional.gelu(z.double())).abs().max()) < 2.6e-5
    assert float(y[-1]) == reach


def test_relu_passes_nan_on(interpreted: Any) -> None:
    z = torch.tensor([float("nan"), -1.0, 0.0, 2.0] * 16)
    y = torch.empty_like(z)
    activate_all[(1,)](z, y, SIZE=64, ACTIVATION=4)
    assert torch.equal(y.isnan(), z.isnan())
    torch.testing.assert_close(y, torch.relu(z), equal_nan=True)

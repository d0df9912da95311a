"""Bugs, planted one at a time in the device code, and each is caught by the comparison that the other tests
make."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from vlcompress.kernels.configs import KernelConfig
from vlcompress.kernels.formats import unpack
from vlcompress.kernels.partition import Partition
from vlcompress.kernels.synthetic import random_weight


@triton.jit
def reads_the_next_input_block(entry):  # type: ignore[no-untyped-def]
    return (entry.to(tl.int32) & 0x7FFF) ^ 1


@triton.jit
def reads_one_stored_block_twice(entry):  # type: ignore[no-untyped-def]
    return (entry >> 32).to(tl.int32) & -2


@triton.jit
def never_writes_the_last_output(entry):  # type: ignore[no-untyped-def]
    return ((entry.to(tl.int32) >> 15) & 1) * ((entry.to(tl.int32) >> 16) < 3).to(tl.int32)


@triton.jit
def never_finds_a_cut_inside(steps_ptr, position):  # type: ignore[no-untyped-def]
    return position * 0


BUGS = {
    "input_block": reads_the_next_input_block,
    "slot": reads_one_stored_block_twice,
    "is_last": never_writes_the_last_output,
}


def error_of(
    launch: Any, kernel: str, relative_error: Callable[[Tensor, Tensor], float], cut: Partition | None = None
) -> float:
    weight = random_weight((64, 64), (16, 16), 0.25)
    x, work_list = torch.randn(20, 64), weight.pattern.forward
    product = launch.Product(x, weight.values, work_list.steps, work_list.cuts, work_list.longest, 64)
    y = launch.run(product, "none", KernelConfig(kernel, block_m=16, warps=4, stages=2), cut=cut)
    return relative_error(y, x.double() @ unpack(weight).double().T)


@pytest.mark.parametrize("kernel", ["pointer", "tma"])
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(
    bug: str,
    kernel: str,
    interpreted: Any,
    relative_error: Callable[[Tensor, Tensor], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert error_of(interpreted, kernel, relative_error) < 1e-5
    module = {"pointer": interpreted.triton_pointer, "tma": interpreted.triton_tma}[kernel]
    monkeypatch.setattr(module, bug, BUGS[bug])
    if bug == "is_last":
        with pytest.raises(AssertionError, match="not written"):
            error_of(interpreted, kernel, relative_error)
    else:
        assert error_of(interpreted, kernel, relative_error) > 0.1


@pytest.mark.parametrize("kernel", ["pointer", "tma"])
def test_a_piece_taken_for_a_whole_output_is_caught(
    kernel: str,
    interpreted: Any,
    relative_error: Callable[[Tensor, Tensor], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = Partition(5, splits_outputs=True, group=1)
    assert error_of(interpreted, kernel, relative_error, cut) < 1e-5
    module = {"pointer": interpreted.triton_pointer, "tma": interpreted.triton_tma}[kernel]
    monkeypatch.setattr(module, "falls_inside", never_finds_a_cut_inside)
    with pytest.raises(AssertionError, match="not written"):
        error_of(interpreted, kernel, relative_error, cut)

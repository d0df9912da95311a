"""Every backend agrees with nn.Linear, and the state dict holds what is stored only."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vlcompress.kernels.backends import dense
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import Block, pack_masked
from vlcompress.kernels.linear import BlockSparseLinear
from vlcompress.kernels.semi_structured import compress

Blocky = Callable[..., Tensor]
ANYWHERE = ("dense", "grouped")
Make = Callable[..., BlockSparseLinear]


@pytest.fixture
def make(blocky: Blocky) -> Make:
    """Return the maker of random layers 96x64."""

    def layer(block: Block, backend: str, bias: bool = True, seed: int = 0) -> BlockSparseLinear:
        generator = torch.Generator().manual_seed(seed)
        bsr = pack_masked(torch.randn(96, 64, generator=generator), blocky(96, 64, block, 0.4), block)
        return BlockSparseLinear(bsr, torch.randn(96, generator=generator) if bias else None, backend)

    return layer


@pytest.mark.parametrize("backend", ANYWHERE)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("block", [(96, 1), (32, 4), (16, 16)], ids=lambda b: f"{b[0]}x{b[1]}")
@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 3, 64)], ids=str)
def test_it_computes_what_the_dense_layer_does(
    make: Make, block: Block, backend: str, bias: bool, shape: tuple[int, ...]
) -> None:
    layer, x = make(block, backend, bias), torch.randn(shape)
    y = layer(x)
    assert y.shape == (*shape[:-1], 96)
    torch.testing.assert_close(y, F.linear(x, dense(layer.weight), layer.bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ANYWHERE)
def test_the_state_dict_holds_the_packed_form_and_loads_into_another_layer(make: Make, backend: str) -> None:
    layer = make((32, 4), backend)
    state = layer.state_dict()
    assert set(state) == {"values", "crow", "col", "bias"}
    other = make((32, 4), backend, seed=1)
    x = torch.randn(7, 64)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("block", [(16, 16), (32, 16)], ids=str)
@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 3, 64)], ids=str)
def test_triton_agrees_in_the_interpreter(make: Make, block: Block, shape: tuple[int, ...], interpreted: Any) -> None:
    layer, x = make(block, "triton"), torch.randn(shape)
    torch.testing.assert_close(layer(x), F.linear(x, dense(layer.weight), layer.bias), atol=1e-5, rtol=1e-5)


def test_a_layer_of_24_is_stored_in_half_and_gives_its_bits_back() -> None:
    weight = torch.randn(96, 36)  # nine groups: the last byte of each row is half full
    weight = weight * (torch.rand(96, 9, 4).argsort(2).argsort(2) < 2).flatten(1)
    weight[3, :8] = 0  # groups that keep fewer
    layer = BlockSparseLinear(compress(weight), torch.randn(96), "dense")
    assert set(layer.state_dict()) == {"values", "index", "bias"}
    assert torch.equal(dense(layer.weight), weight)
    assert layer.weight.nbytes == 96 * (18 * 4 + 5)
    x = torch.randn(7, 36)
    torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))
    assert torch.equal(dense(layer.bfloat16().weight), weight.bfloat16())


def test_24_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(KernelInputError, match=r"K a multiple of 4, not \[8, 6\]"):
        compress(torch.zeros(8, 6))
    with pytest.raises(KernelInputError, match="a group of four inputs keeps more than two"):
        compress(torch.ones(8, 8))


def test_moving_to_another_dtype_derives_everything_anew(make: Make) -> None:
    layer, x = make((32, 4), "grouped"), torch.randn(3, 64)
    before = layer(x)
    after = layer.bfloat16()(x.bfloat16())
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after.float(), before, atol=0.1, rtol=0.05)


def test_backends_that_cannot_run_say_which_can(make: Make) -> None:
    layer = make((32, 4), "dense")
    with pytest.raises(KernelInputError, match=r"not 32x4; backends 'dense' and 'grouped' take it"):
        layer.use("triton")
    with pytest.raises(KernelInputError, match="the weight is not 2:4 sparse"):
        layer.use("semi-structured")
    with pytest.raises(KernelInputError, match=r"unknown backend 'groped': allowed are dense, grouped, triton"):
        layer.use("groped")
    assert layer.backend == "dense"
    halves = BlockSparseLinear(compress(torch.zeros(8, 8)), None)
    with pytest.raises(KernelInputError, match="2:4 needs a GPU with sparse tensor cores, and is not faster on a cpu"):
        halves.use("semi-structured")
    with pytest.raises(KernelInputError, match="a 2:4 weight has no blocks"):
        halves.use("triton")

"""Both backends agree with nn.Linear, and the state dict holds packed tensors only."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vlcompress.errors import VlcompressError
from vlcompress.sparse.formats import Block, pack, to_dense
from vlcompress.sparse.linear import BACKENDS, Backend, BlockSparseLinear, densify

Blocky = Callable[..., Tensor]
Make = Callable[..., BlockSparseLinear]


@pytest.fixture
def make(blocky: Blocky) -> Make:
    """Give the maker of random layers 96x64."""

    def layer(block: Block, backend: Backend, bias: bool = True, seed: int = 0) -> BlockSparseLinear:
        generator = torch.Generator().manual_seed(seed)
        bsr = pack(torch.randn(96, 64, generator=generator), blocky(96, 64, block, 0.4), block)
        return BlockSparseLinear(bsr, torch.randn(96, generator=generator) if bias else None, backend)

    return layer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("block", [(96, 1), (32, 4), (16, 16)], ids=lambda b: f"{b[0]}x{b[1]}")
@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 3, 64)], ids=str)
def test_it_computes_what_the_dense_layer_does(
    make: Make, block: Block, backend: Backend, bias: bool, shape: tuple[int, ...]
) -> None:
    layer, x = make(block, backend, bias), torch.randn(shape)
    y = layer(x)
    assert y.shape == (*shape[:-1], 96)
    torch.testing.assert_close(y, F.linear(x, to_dense(layer.bsr), layer.bias), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y, densify(layer)(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_state_dict_holds_the_packed_form_and_loads_into_another_layer(make: Make, backend: Backend) -> None:
    layer = make((32, 4), backend)
    state = layer.state_dict()
    assert set(state) == {"values", "crow", "col", "bias"}
    other = make((32, 4), backend, seed=1)
    x = torch.randn(7, 64)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), layer(x))


def test_an_unknown_backend_lists_the_known_ones(make: Make) -> None:
    with pytest.raises(VlcompressError, match=r"unknown backend 'groped'.*did you mean 'grouped'"):
        BlockSparseLinear(make((32, 4), "dense").bsr, None, "groped")  # type: ignore[arg-type]

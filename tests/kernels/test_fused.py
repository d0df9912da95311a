"""The composed operators: q/k/v as one matrix, several linears in one launch, the feed-forward pair in chunks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlcompress.kernels import naive
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.ffn import block_sparse_feed_forward, chunk_rows
from vlcompress.kernels.formats import BlockSparseWeight, stack_rows, unpack
from vlcompress.kernels.many import LIMIT, block_sparse_linears
from vlcompress.kernels.qkv import block_sparse_qkv, fuse
from vlcompress.kernels.synthetic import random_weight

Error = Callable[[Tensor, Tensor], float]
BACKENDS = ["grouped", "triton"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "triton":
        request.getfixturevalue("interpreted")
    return str(request.param)


def test_qkv_is_three_linears(backend: str, relative_error: Error) -> None:
    weights = [random_weight((64, 96), (32, 32), 0.5, seed=seed) for seed in range(3)]
    x, biases = torch.randn(2, 9, 96), [torch.randn(64) for _ in range(3)]
    found = block_sparse_qkv(x, *fuse(weights, biases), backend)
    for y, weight, bias in zip(found, weights, biases, strict=True):
        assert relative_error(y, naive.block_sparse_linear(x, weight, bias)) < 1e-5


def test_qkv_refuses_other_than_three_alike() -> None:
    weight = random_weight((64, 96), (32, 32), 0.5)
    with pytest.raises(KernelInputError, match="three weights of one shape"):
        fuse([weight, weight])
    with pytest.raises(KernelInputError, match="three weights of one shape"):
        fuse([weight, weight, stack_rows([weight, weight])])


@pytest.mark.parametrize("count", [1, 2, LIMIT + 1])
def test_many_linears_of_different_shapes(count: int, backend: str, relative_error: Error) -> None:
    weights = [random_weight((64 + 32 * i, 96 + 32 * i), (32, 32), 0.6, seed=i, empty_row=i % 2) for i in range(count)]
    xs = [torch.randn(3, 7 * i + 5, weight.pattern.shape[1]) for i, weight in enumerate(weights)]
    biases = [torch.randn(weight.pattern.shape[0]) for weight in weights]
    residuals = [torch.randn(3, 7 * i + 5, weight.pattern.shape[0]) for i, weight in enumerate(weights)]
    found = block_sparse_linears(xs, weights, biases, "gelu", residuals, backend)
    for y, x, weight, bias, residual in zip(found, xs, weights, biases, residuals, strict=True):
        truth = naive.linear(x.double(), unpack(weight).double(), bias.double(), "gelu", residual.double())
        assert relative_error(y, truth) < 1e-5


def test_many_linears_pass_gradients_on() -> None:
    weights = [random_weight((32, 32), (16, 16), 0.5, seed=i) for i in range(2)]
    xs = [torch.randn(3, 32, requires_grad=True) for _ in range(2)]
    ys = block_sparse_linears(xs, weights, backend="grouped")
    for dx, weight in zip(torch.autograd.grad([y.sum() for y in ys], xs), weights, strict=True):
        torch.testing.assert_close(dx, torch.ones(3, 32) @ unpack(weight))


def test_many_linears_opcheck(backend: str) -> None:
    weights = [random_weight((32, 32), (16, 16), 0.5, seed=i) for i in range(2)]
    patterns = [weight.pattern for weight in weights]
    arguments = (
        [torch.randn(3, 32), torch.randn(5, 32)],
        [weight.values for weight in weights],
        [p.row for p in patterns],
        [p.col for p in patterns],
        [p.forward.walk for p in patterns],
        [p.forward.cuts for p in patterns],
        [],
        [],
        [32, 32],
        "relu",
        backend,
    )
    torch.library.opcheck(torch.ops.vlcompress.block_sparse_products, arguments)


def test_many_linears_refuse_lists_that_do_not_match() -> None:
    weight, x = random_weight((32, 32), (16, 16), 0.5), torch.randn(3, 32)
    with pytest.raises(KernelInputError, match="2 weights for 1 inputs"):
        block_sparse_linears([x], [weight, weight])
    with pytest.raises(KernelInputError, match="1 biases for 2 inputs"):
        block_sparse_linears([x, x], [weight, weight], [torch.zeros(32)])
    with pytest.raises(KernelInputError, match="does not go in one launch"):
        block_sparse_linears([x, x], [weight, random_weight((32, 32), (16, 32), 0.5)])


def ffn_inputs() -> tuple[BlockSparseWeight, BlockSparseWeight, list[Tensor]]:
    torch.manual_seed(0)
    up, down = random_weight((128, 64), (32, 32), 0.5), random_weight((64, 128), (32, 32), 0.5, seed=1)
    return up, down, [torch.randn(2, 25, 64), up.values, torch.randn(128), down.values, torch.randn(64)]


@pytest.mark.parametrize("chunk", [None, 16, 50, 1000])
def test_feed_forward_in_chunks(chunk: int | None, backend: str, relative_error: Error) -> None:
    up, down, (x, _, up_bias, _, down_bias) = ffn_inputs()
    y = block_sparse_feed_forward(x, up, up_bias, down, down_bias, "gelu", x, chunk, backend)
    assert relative_error(y, naive.feed_forward(x, up, up_bias, down, down_bias, "gelu", x)) < 1e-5


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_feed_forward_gradients(activation: str, backend: str, relative_error: Error) -> None:
    up, down, inputs = ffn_inputs()

    def gradients(run: Callable[..., Tensor], dtype: torch.dtype, *extra: Any) -> list[Tensor]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
        x, up_values, up_bias, down_values, down_bias = leaves
        weights = BlockSparseWeight(up_values, up.pattern), BlockSparseWeight(down_values, down.pattern)
        y = run(x, weights[0], up_bias, weights[1], down_bias, activation, x, *extra)
        return list(torch.autograd.grad(y.square().sum(), leaves))

    found = gradients(block_sparse_feed_forward, torch.float32, 16, backend)
    for gradient, truth in zip(found, gradients(naive.feed_forward, torch.float64), strict=True):
        assert relative_error(gradient, truth) < 1e-5


def test_feed_forward_compiles_as_one_graph() -> None:
    up, down, (x, _, up_bias, _, down_bias) = ffn_inputs()

    def model(x: Tensor) -> Tensor:
        return block_sparse_feed_forward(x, up, up_bias, down, down_bias).sin()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_feed_forward_refuses_what_does_not_fit() -> None:
    up, down, (x, *_) = ffn_inputs()
    with pytest.raises(KernelInputError, match="last dimension must be 64"):
        block_sparse_feed_forward(x, up, None, up, None)
    with pytest.raises(KernelInputError, match="chunk is 0"):
        block_sparse_feed_forward(x, up, None, down, None, chunk=0)
    with pytest.raises(KernelInputError, match="bias has shape"):
        block_sparse_feed_forward(x, up, None, down, torch.zeros(128))


def test_chunks_keep_the_inner_activations_in_half_the_cache() -> None:
    assert chunk_rows(3072, torch.empty(0, dtype=torch.bfloat16)) * 3072 * 2 <= 20 << 20
    assert chunk_rows(1 << 20, torch.empty(0)) == 128

"""The operator on any device: against float64, through autograd, torch.compile and opcheck, and refusing bad calls."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlcompress.kernels import naive
from vlcompress.kernels.block_sparse_linear import block_sparse_linear, index_tensors, longest_parts
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockSparseWeight, pack, unpack
from vlcompress.kernels.synthetic import random_weight

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("backend", ["grouped", "dense"])
@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_forward_is_the_dense_product(
    backend: str, activation: str, dtype: torch.dtype, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    weight = random_weight((128, 192), (32, 64), 0.6, dtype, empty_row=1)
    x, bias, residual = torch.randn(3, 7, 192).to(dtype), torch.randn(128).to(dtype), torch.randn(3, 7, 128).to(dtype)
    y = block_sparse_linear(x, weight, bias, activation, residual, backend)
    truth = naive.linear(x.double(), unpack(weight).double(), bias.double(), activation, residual.double())
    assert y.dtype == dtype
    assert relative_error(y, truth) < TOLERANCE[dtype]


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_empty_full_and_no_rows(sparsity: float, rows: int) -> None:
    weight = random_weight((64, 64), (16, 32), sparsity)
    x, bias = torch.randn(rows, 64), torch.randn(64)
    torch.testing.assert_close(
        block_sparse_linear(x, weight, bias, "gelu"), naive.block_sparse_linear(x, weight, bias, "gelu")
    )


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_gradcheck_in_float64(activation: str) -> None:
    weight = random_weight((32, 64), (16, 32), 0.5, torch.float64)
    x, bias, residual = (
        torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 64), (32,), (3, 32))
    )
    values = weight.values.requires_grad_()

    def call(x: Tensor, values: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return block_sparse_linear(x, BlockSparseWeight(values, weight.pattern), bias, activation, residual, "grouped")

    assert torch.autograd.gradcheck(call, (x, values, bias, residual), fast_mode=True)


def test_fine_tuning_lowers_the_loss_and_keeps_the_pattern() -> None:
    torch.manual_seed(0)
    weight = random_weight((64, 64), (16, 16), 0.7)
    values = weight.values.clone().requires_grad_()
    x, target = torch.randn(32, 64), torch.randn(32, 64)
    optimizer = torch.optim.SGD([values], lr=1.0)
    losses = []
    for _ in range(10):
        y = block_sparse_linear(x, BlockSparseWeight(values, weight.pattern))
        loss = (y - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    trained = unpack(BlockSparseWeight(values.detach(), weight.pattern))
    assert torch.equal(unpack(pack(trained, (16, 16))) != 0, trained != 0)


def operator_arguments(weight: BlockSparseWeight, backend: str, activation: str) -> tuple[Any, ...]:
    x, bias, residual = (torch.randn(shape, requires_grad=True) for shape in ((5, 64), (32,), (5, 32)))
    return (
        x,
        weight.values.requires_grad_(),
        *index_tensors(weight, backend),
        bias,
        residual,
        *longest_parts(weight, backend),
        32,
        False,
        activation,
        backend,
    )


@pytest.mark.parametrize("backend", ["grouped", "triton"])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_opcheck(backend: str, activation: str, request: pytest.FixtureRequest) -> None:
    if backend == "triton":
        request.getfixturevalue("interpreted")
    weight = random_weight((32, 64), (16, 32), 0.5)
    torch.library.opcheck(torch.ops.vlcompress.block_sparse_product, operator_arguments(weight, backend, activation))
    dy, x, pattern = torch.randn(5, 32), torch.randn(5, 64), weight.pattern
    arguments = (dy, x, pattern.row, pattern.col, [16, 32], backend)
    torch.library.opcheck(torch.ops.vlcompress.block_sparse_values_gradient, arguments)


def test_compiles_as_one_graph_with_its_gradient() -> None:
    weight = random_weight((64, 64), (16, 16), 0.5)
    x, bias = torch.randn(2, 5, 64, requires_grad=True), torch.randn(64)

    def model(x: Tensor) -> Tensor:
        return block_sparse_linear(x.sin(), weight, bias, "gelu").cos()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    (found,), (truth,) = (torch.autograd.grad(f(x).sum(), x) for f in (compiled, model))
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("backend", ["grouped", "dense", "triton"])
def test_autocast_casts_what_it_casts_for_linear(backend: str, request: pytest.FixtureRequest) -> None:
    if backend == "triton":
        request.getfixturevalue("interpreted")
    weight = random_weight((64, 64), (16, 16), 0.5)
    values = weight.values.clone().requires_grad_()
    x, bias, residual = torch.randn(5, 64, requires_grad=True), torch.randn(64), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = block_sparse_linear(x, BlockSparseWeight(values, weight.pattern), bias, "none", residual, backend)
        truth = torch.nn.functional.linear(x, unpack(weight), bias) + residual
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), truth.float(), rtol=2e-2, atol=5e-2)
    found = torch.autograd.grad(y.float().sum(), (x, values))
    (wanted,) = torch.autograd.grad(truth.float().sum(), x)
    assert [gradient.dtype for gradient in found] == [torch.float32, torch.float32]
    torch.testing.assert_close(found[0], wanted, rtol=2e-2, atol=5e-2)


def test_autocast_leaves_other_dtypes_alone_and_traces() -> None:
    weight = random_weight((32, 64), (16, 16), 0.5)
    compiled = torch.compile(lambda x: block_sparse_linear(x, weight), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert block_sparse_linear(X.double(), weight.to(dtype=torch.float64)).dtype == torch.float64
        assert compiled(X).dtype == torch.bfloat16


def test_inductor_takes_it_as_one_node() -> None:
    weight, x = random_weight((64, 64), (16, 16), 0.5), torch.randn(5, 64)
    compiled = torch.compile(lambda x: block_sparse_linear(x, weight, None, "relu"), fullgraph=True)
    torch.testing.assert_close(compiled(x), block_sparse_linear(x, weight, None, "relu"))


WEIGHT = random_weight((32, 64), (16, 16), 0.5)
X = torch.randn(4, 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_sparse_linear(X[:, :48], WEIGHT), "last dimension must be 64"),
        (lambda: block_sparse_linear(torch.tensor(1.0), WEIGHT), "last dimension must be 64"),
        (lambda: block_sparse_linear(X, WEIGHT, torch.zeros(64)), r"bias has shape \[64\]: it must be \[32\]"),
        (lambda: block_sparse_linear(X, WEIGHT, residual=torch.zeros(1, 32)), "residual has shape"),
        (lambda: block_sparse_linear(X, WEIGHT, activation="swish"), "unknown activation 'swish'"),
        (lambda: block_sparse_linear(X, WEIGHT, backend="cuda"), "unknown backend 'cuda'"),
        (lambda: block_sparse_linear(X.bfloat16(), WEIGHT), "weight is torch.float32, x is torch.bfloat16"),
        (lambda: block_sparse_linear(X.int(), WEIGHT), "x is torch.int32"),
        (lambda: block_sparse_linear(X.to("meta"), WEIGHT), "weight is on cpu, x on meta"),
        (lambda: block_sparse_linear(X, WEIGHT.to("meta")), "weight is on meta, x on cpu"),
        (lambda: block_sparse_linear(X, BlockSparseWeight(WEIGHT.values[1:], WEIGHT.pattern)), "rebuild it"),
    ],
)
def test_bad_calls_are_refused_before_any_launch(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        call()


def test_a_block_that_no_kernel_walks_runs_grouped_and_refuses_triton() -> None:
    weight = random_weight((30, 60), (5, 3), 0.5)
    x = torch.randn(4, 60)
    torch.testing.assert_close(block_sparse_linear(x, weight), x @ unpack(weight).T)
    with pytest.raises(KernelInputError, match=r"block sides of 16, 32, 64, 128, not 5x3; backend 'grouped' takes it"):
        block_sparse_linear(x, weight, backend="triton")


def test_triton_is_refused_on_the_cpu_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(KernelInputError, match=r"needs CUDA tensors|needs the package triton"):
        block_sparse_linear(X, WEIGHT, backend="triton")

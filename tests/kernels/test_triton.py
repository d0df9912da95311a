"""Every Triton kernel in the interpreter, against float64: blocks, dtypes, ragged rows, strides, empty and full."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlcompress.kernels import naive
from vlcompress.kernels.block_sparse_linear import block_sparse_linear, input_gradient, values_gradient
from vlcompress.kernels.configs import KernelConfig
from vlcompress.kernels.formats import BlockSparseWeight, pack, unpack
from vlcompress.kernels.partition import Partition
from vlcompress.kernels.synthetic import random_weight

Error = Callable[[Tensor, Tensor], float]

CONFIGS = {
    "pointer": KernelConfig("pointer", block_m=32, warps=4, stages=3),
    "tma": KernelConfig("tma", block_m=32, warps=4, stages=3),
    "small": KernelConfig("small", block_m=16, warps=4, stages=3),
}
BLOCKS = [(16, 16), (16, 128), (32, 32), (64, 32), (64, 64), (128, 64), (64, 128), (128, 128)]
# bf16 keeps 8 bits and the interpreter truncates to it; fp16 keeps 11; fp32 differs by the order of the sums.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-3, torch.float16: 1e-3}


def products(launch: Any, weight: BlockSparseWeight, x: Tensor, dy: Tensor, **epilogue: Tensor) -> tuple[Any, Any]:
    """The product forward, and along the transposed work list."""
    p, (n_out, n_in) = weight.pattern, weight.pattern.shape
    forward = launch.Product(x, weight.values, p.forward.steps, p.forward.cuts, p.forward.longest, n_out, **epilogue)
    return forward, launch.Product(
        dy, weight.values, p.transposed.steps, p.transposed.cuts, p.transposed.longest, n_in, transposed=True
    )


def check_both_directions(
    launch: Any, error: Error, config: KernelConfig, block: tuple[int, int], dtype: torch.dtype, m: int = 50
) -> None:
    torch.manual_seed(0)
    n_out, n_in = (3 * side if side > 16 else 5 * side for side in block)
    weight = random_weight((n_out, n_in), block, 0.5, dtype, empty_row=1)
    x, dy, bias = torch.randn(m, n_in).to(dtype), torch.randn(m, n_out).to(dtype), torch.randn(n_out).to(dtype)
    forward, transposed = products(launch, weight, x, dy, bias=bias)
    w_NK = unpack(weight).double()
    truth = naive.linear(x.double(), w_NK, bias.double(), "gelu")
    assert error(launch.run(forward, "gelu", config), truth) < TOLERANCE[dtype]
    assert error(launch.run(transposed, "none", config), dy.double() @ w_NK) < TOLERANCE[dtype]


@pytest.mark.parametrize("kernel", CONFIGS)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks(kernel: str, block: tuple[int, int], interpreted: Any, relative_error: Error) -> None:
    check_both_directions(interpreted, relative_error, CONFIGS[kernel], block, torch.bfloat16)


@pytest.mark.parametrize("kernel", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_dtypes(kernel: str, dtype: torch.dtype, interpreted: Any, relative_error: Error) -> None:
    check_both_directions(interpreted, relative_error, CONFIGS[kernel], (64, 64), dtype)


@pytest.mark.parametrize("kernel", CONFIGS)
@pytest.mark.parametrize("m", [1, 31, 32, 97])
def test_ragged_rows(kernel: str, m: int, interpreted: Any, relative_error: Error) -> None:
    check_both_directions(interpreted, relative_error, CONFIGS[kernel], (64, 32), torch.float32, m)


@pytest.mark.parametrize("kernel", CONFIGS)
@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_epilogues(kernel: str, activation: str, interpreted: Any, relative_error: Error) -> None:
    weight = random_weight((64, 128), (32, 32), 0.5, torch.float16)
    x, bias, residual = (torch.randn(shape).half() for shape in ((20, 128), (64,), (20, 96)))
    forward, _ = products(interpreted, weight, x, x[:, :64], bias=bias, residual=residual[:, 16:80])
    y = interpreted.run(forward, activation, CONFIGS[kernel])
    truth = naive.linear(x.double(), unpack(weight).double(), bias.double(), activation, residual[:, 16:80].double())
    assert relative_error(y, truth) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("kernel", CONFIGS)
@pytest.mark.parametrize("empty_row", [0, 3])
def test_one_block_and_none(kernel: str, empty_row: int, interpreted: Any, relative_error: Error) -> None:
    """All block rows but one are empty, the first or the last among them: those outputs are the bias."""
    mask = torch.zeros(4, 4)
    mask[3 - empty_row, 2] = 1
    weight = pack(mask.repeat_interleave(16, 0).repeat_interleave(16, 1), (16, 16))
    x, bias = torch.randn(20, 64), torch.randn(64)
    forward, transposed = products(interpreted, weight, x, x, bias=bias)
    truth = naive.linear(x.double(), unpack(weight).double(), bias.double())
    assert relative_error(interpreted.run(forward, "none", CONFIGS[kernel]), truth) < 1e-5
    truth = x.double() @ unpack(weight).double()
    assert relative_error(interpreted.run(transposed, "none", CONFIGS[kernel]), truth) < 1e-5


@pytest.mark.parametrize("kernel", CONFIGS)
def test_full_weight(kernel: str, interpreted: Any, relative_error: Error) -> None:
    weight = random_weight((128, 128), (32, 64), 0.0)
    x = torch.randn(40, 128)
    forward, _ = products(interpreted, weight, x, x)
    truth = x.double() @ unpack(weight).double().T
    assert relative_error(interpreted.run(forward, "none", CONFIGS[kernel]), truth) < 1e-5


@pytest.mark.parametrize("block", [(16, 16), (64, 32), (32, 128)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_gradient(block: tuple[int, int], dtype: torch.dtype, interpreted: Any, relative_error: Error) -> None:
    weight = random_weight((128, 256), block, 0.8, dtype)
    dy, x = torch.randn(150, 128).to(dtype), torch.randn(150, 256).to(dtype)
    truth = naive.values_gradient(dy.double(), x.double(), weight)
    assert relative_error(values_gradient(dy, x, weight, "triton"), truth) < TOLERANCE[dtype]


def test_values_gradient_splits_its_rows(interpreted: Any, relative_error: Error) -> None:
    weight = random_weight((64, 64), (64, 64), 0.0)
    dy, x = torch.randn(300, 64), torch.randn(300, 64)
    truth = naive.values_gradient(dy.double(), x.double(), weight)
    assert relative_error(values_gradient(dy, x, weight, "triton"), truth) < 1e-5


@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
def test_operator_and_its_gradients(activation: str, interpreted: Any, relative_error: Error) -> None:
    """The whole operator on Triton: batch dimensions, strided inputs, and every gradient against float64 autograd."""
    torch.manual_seed(0)
    weight = random_weight((64, 96), (32, 32), 0.5, empty_row=0)
    inputs = [
        torch.randn(2, 96, 5).transpose(1, 2),
        weight.values,
        torch.randn(64),
        torch.randn(5, 2, 64).transpose(0, 1),
    ]

    def gradients(dtype: torch.dtype, backend: str) -> list[Tensor]:
        x, values, bias, residual = leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
        y = block_sparse_linear(x, BlockSparseWeight(values, weight.pattern), bias, activation, residual, backend)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]

    for found, truth in zip(gradients(torch.float32, "triton"), gradients(torch.float64, "dense"), strict=True):
        assert relative_error(found, truth) < 1e-5


def test_all_empty_weight(interpreted: Any) -> None:
    weight = random_weight((64, 64), (32, 32), 1.0)
    x, bias = torch.randn(3, 64), torch.randn(64)
    assert torch.equal(block_sparse_linear(x, weight, bias, backend="triton"), bias.expand(3, 64))
    assert torch.equal(input_gradient(x, weight, "triton"), torch.zeros(3, 64))


def test_slices_of_wider_rows_are_read_in_place(interpreted: Any, relative_error: Error) -> None:
    """q of a fused q/k/v output is such a slice; one whose rows start off a 16-byte boundary cannot go through TMA."""
    weight = random_weight((64, 64), (32, 32), 0.5, torch.float16)
    wide = torch.randn(20, 200).half()
    for start in (64, 65):
        x = wide[:, start : start + 64]
        forward, _ = products(interpreted, weight, x, x)
        truth = x.double() @ unpack(weight).double().T
        assert relative_error(interpreted.run(forward, "none", CONFIGS["tma"]), truth) < TOLERANCE[torch.float16]


def skewed_weight(dtype: torch.dtype) -> BlockSparseWeight:
    """A weight of 5 x 8 blocks of 32 x 16 with one full block row, one empty one and single blocks."""
    mask = torch.zeros(5, 8, dtype=torch.bool)
    mask[3] = True
    mask[(0, 2, 4), (1, 5, 7)] = True
    w_NK = torch.randn(160, 128) * mask.repeat_interleave(32, 0).repeat_interleave(16, 1)
    return pack(w_NK.to(dtype), (32, 16), mask)


@pytest.mark.parametrize("kernel", CONFIGS)
@pytest.mark.parametrize("parts", [2, 3, 5, 9, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_outputs_split_among_parts(
    kernel: str, parts: int, dtype: torch.dtype, interpreted: Any, relative_error: Error
) -> None:
    """One part holds many outputs, or one output lies in up to eight parts; the pieces get bias, GELU and residual."""
    weight, m = skewed_weight(dtype), 50
    n_out, n_in = weight.shape
    x, dy, bias, residual = (torch.randn(shape).to(dtype) for shape in ((m, n_in), (m, n_out), (n_out,), (m, n_out)))
    forward, transposed = products(interpreted, weight, x, dy, bias=bias, residual=residual)
    cut = Partition(parts, splits_outputs=True, group=1)
    y = interpreted.run(forward, "gelu", CONFIGS[kernel], cut=cut)
    w_NK = unpack(weight).double()
    truth = naive.linear(x.double(), w_NK, bias.double(), "gelu", residual.double())
    assert relative_error(y, truth) < TOLERANCE[dtype]
    assert torch.equal(y, interpreted.run(forward, "gelu", CONFIGS[kernel], cut=cut)), "not the same bits"
    dx = interpreted.run(transposed, "none", CONFIGS[kernel], cut=cut)
    assert relative_error(dx, dy.double() @ w_NK) < TOLERANCE[dtype]


@pytest.mark.parametrize("kernel", CONFIGS)
@pytest.mark.parametrize("group", [1, 2, 3, 7])
def test_row_tiles_in_groups(kernel: str, group: int, interpreted: Any, relative_error: Error) -> None:
    """Seven row tiles or four, the last group smaller than the others."""
    weight, x = skewed_weight(torch.float32), torch.randn(100, 128)
    forward, _ = products(interpreted, weight, x, x)
    y = interpreted.run(forward, "none", CONFIGS[kernel], cut=Partition(3, False, group))
    assert relative_error(y, x.double() @ unpack(weight).double().T) < 1e-5


def test_few_rows_are_split_by_themselves(interpreted: Any) -> None:
    """One row tile and one output of many blocks cannot fill the chip otherwise."""
    weight, x = random_weight((16, 1024), (16, 16), 0.0), torch.randn(3, 1024)
    forward, _ = products(interpreted, weight, x, x)
    _, cut = interpreted.cheapest_cut(forward, CONFIGS["small"])
    assert cut.splits_outputs
    assert cut.parts == 2 * 4, "two programs on each of the interpreter's four multiprocessors"

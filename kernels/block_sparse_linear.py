"""The operator: Y = act(X Wᵀ + bias) + residual for a block-sparse weight W, forward and backward, on any device.

Everything passes through two custom operators over plain tensors, so torch.compile traces them as single nodes and CUDA
graphs can hold them:

- ``vlcompress::block_sparse_product``: X Wᵀ by the forward work list, X W by the transposed one. Each is the other's
  input gradient, so one operator serves both directions.
- ``vlcompress::block_sparse_values_gradient``: dYᵀ X at the stored blocks.

Nothing but the inputs is kept for the backward pass: where an activation is fused, its argument is computed again
there.

Legend: M rows of X (all leading dimensions), N out features, K in features, R x C block, nnz stored blocks.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlcompress.kernels import grouped, naive
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import DTYPES, TRITON_DTYPES, BlockSparseWeight, dense_from_blocks
from vlcompress.kernels.work_list import no_work_list_because

BACKENDS = ("auto", "triton", "grouped", "dense")
HAS_TRITON = importlib.util.find_spec("triton") is not None

# Calls go through the registry, not through the Python functions below, so that torch.compile sees the operators.
_operators: Any = torch.ops.vlcompress


def block_sparse_linear(
    x: Tensor,
    weight: BlockSparseWeight,
    bias_N: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """act(x Wᵀ + bias) + residual, summed in fp32 on the GPU and rounded once.

    Args:
        x: [..., K], fp32 (multiplied as TF32 where torch's ``set_float32_matmul_precision`` allows that), bf16 or
            fp16, with any strides. Under ``torch.autocast`` all operands are cast as those of F.linear are.
        weight: [N, K] in blocks, of x's dtype and on its device.
        bias_N: [N] or None.
        activation: one of ``naive.ACTIVATIONS``. "gelu" is the exact form in fp32; in bf16 and fp16 the Triton kernels
            fit it to 2.6e-5, before the 2⁻¹¹ relative error of the hardware's tanh.
        residual: [..., N], added after the activation, or None.
        backend: "triton" (CUDA), "grouped" (any device), "dense" (unpacks W each time; the truth) or "auto": triton for
            CUDA tensors where Triton is installed, else grouped.

    Returns:
        [..., N] in x's dtype.

    Raises:
        KernelInputError: shapes, dtypes, devices or names that do not fit, before anything is launched.
    """
    if x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, bias_N, residual = (_cast(tensor, dtype) for tensor in (x, bias_N, residual))
        weight = BlockSparseWeight(_cast(weight.values, dtype), weight.pattern)
    backend = check_call(x, weight, bias_N, activation, residual, backend)
    n_out, n_in = weight.shape
    y_MN: Tensor = _operators.block_sparse_product(
        x.reshape(-1, n_in),
        weight.values,
        *index_tensors(weight, backend),
        bias_N,
        None if residual is None else residual.reshape(-1, n_out),
        *longest_parts(weight, backend),
        n_out,
        False,
        activation,
        backend,
    )
    return y_MN.view(*x.shape[:-1], n_out)


def input_gradient(dy_MN: Tensor, weight: BlockSparseWeight, backend: str = "auto") -> Tensor:
    """dX = dY W: [M, K] from dY [M, N]."""
    backend = resolve_backend(backend, dy_MN, weight)
    index, longest = index_tensors(weight, backend), longest_parts(weight, backend)
    dx_MK: Tensor = _operators.block_sparse_product(
        dy_MN, weight.values, *index, None, None, *longest, weight.shape[1], True, "none", backend
    )
    return dx_MK


def values_gradient(dy_MN: Tensor, x_MK: Tensor, weight: BlockSparseWeight, backend: str = "auto") -> Tensor:
    """dW = dYᵀ X at the stored blocks: [nnz, R, C]."""
    pattern, backend = weight.pattern, resolve_backend(backend, x_MK, weight)
    dvalues: Tensor = _operators.block_sparse_values_gradient(
        dy_MN, x_MK, pattern.row, pattern.col, list(pattern.block), backend
    )
    return dvalues


def index_tensors(weight: BlockSparseWeight, backend: str) -> tuple[Tensor, ...]:
    """List row, col, and both work lists' steps and cuts, as the operators take them.

    The work lists are empty where no Triton kernel reads them: the other backends take blocks that have none.
    """
    p = weight.pattern
    if backend == "triton":
        return p.row, p.col, p.forward.steps, p.forward.cuts, p.transposed.steps, p.transposed.cuts
    return (p.row, p.col, *[p.col[:0]] * 4)


def longest_parts(weight: BlockSparseWeight, backend: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """List the steps of both work lists' longest parts; likewise empty where no Triton kernel runs."""
    pattern = weight.pattern
    return (pattern.forward.longest, pattern.transposed.longest) if backend == "triton" else ((), ())


def check_call(
    x: Tensor,
    weight: BlockSparseWeight,
    bias_N: Tensor | None,
    activation: str,
    residual: Tensor | None,
    backend: str,
) -> str:
    """Refuse a call that cannot be right, at the price of a few attribute reads; return the backend that runs it.

    What the indices say was checked when the weight was built, where it costs no wait for the device.

    Raises:
        KernelInputError: naming the value, what is allowed and the fix.
    """
    _check_name("activation", activation, naive.ACTIVATIONS)
    _check_name("backend", backend, BACKENDS)
    n_out, n_in = weight.pattern.shape
    if x.dim() == 0 or x.shape[-1] != n_in:
        raise KernelInputError(f"x has shape {list(x.shape)}: its last dimension must be {n_in}, the weight's K")
    if weight.values.shape != (weight.pattern.nnz, *weight.pattern.block):
        raise KernelInputError(
            f"values have shape {list(weight.values.shape)}, their pattern says otherwise: rebuild it"
        )
    if bias_N is not None and bias_N.shape != (n_out,):
        raise KernelInputError(f"bias has shape {list(bias_N.shape)}: it must be [{n_out}], the weight's N")
    if residual is not None and residual.shape != (*x.shape[:-1], n_out):
        raise KernelInputError(f"residual has shape {list(residual.shape)}: it must be {[*x.shape[:-1], n_out]}")
    backend = resolve_backend(backend, x, weight)
    others = {"weight": weight.values, "bias": bias_N, "residual": residual, "pattern": weight.pattern.col}
    for name, tensor in others.items():
        _check_like(name, tensor, x)
    return backend


def _cast(tensor: Any, dtype: torch.dtype) -> Any:
    """Cast a tensor as autocast does: what is no float, and float64, it leaves alone."""
    return tensor if tensor is None or tensor.dtype not in TRITON_DTYPES else tensor.to(dtype)


def _check_name(kind: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise KernelInputError(f"unknown {kind} '{value}': allowed are {', '.join(allowed)}")


def _check_like(name: str, tensor: Tensor | None, x: Tensor) -> None:
    if tensor is None:
        return
    if tensor.device != x.device:
        raise KernelInputError(f"{name} is on {tensor.device}, x on {x.device}: move one of them")
    if name != "pattern" and tensor.dtype != x.dtype:
        raise KernelInputError(f"{name} is {tensor.dtype}, x is {x.dtype}: convert one of them")


# ---- The operators. The wrappers above check; below, inputs are trusted. ----


def resolve_backend(backend: str, x: Tensor, weight: BlockSparseWeight) -> str:
    """Name the backend of an input: "auto" is triton where a kernel takes it, else grouped.

    Raises:
        KernelInputError: "triton" was asked for and cannot run here, or the dtype has no kernel.
    """
    if x.dtype not in DTYPES:
        raise KernelInputError(f"x is {x.dtype}: use {', '.join(map(str, TRITON_DTYPES))}")
    if backend not in ("auto", "triton"):
        return backend
    why = no_triton_because(x.device, x.dtype, weight)
    if why is not None and backend == "triton":
        raise KernelInputError(f"backend 'triton' cannot run here: {why}; backend 'grouped' takes it")
    return "triton" if why is None and (backend == "triton" or x.is_cuda) else "grouped"


def no_triton_because(device: torch.device, dtype: torch.dtype, weight: BlockSparseWeight) -> str | None:
    """Say why no Triton kernel takes inputs of this device and dtype for a weight; None if one does."""
    if not HAS_TRITON:
        return "the package triton is not installed"
    if dtype not in TRITON_DTYPES:
        return f"there is no kernel for {dtype}"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs CUDA tensors, not {device.type} ones"
    why = no_work_list_because(weight.shape, weight.block)
    return _no_precision_because(device, dtype, weight.block) if why is None and device.type == "cuda" else why


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _no_precision_because(device: torch.device, dtype: torch.dtype, block: tuple[int, int]) -> str | None:
    """As `launch.refusal`, which torch.compile cannot trace."""
    from vlcompress.kernels import launch

    return launch.refusal(device, dtype, block)


@torch.library.custom_op("vlcompress::block_sparse_product", mutates_args=())
def block_sparse_product(
    x_MK: Tensor,
    values: Tensor,
    row: Tensor,
    col: Tensor,
    steps: Tensor,
    cuts: Tensor,
    steps_transposed: Tensor,
    cuts_transposed: Tensor,
    bias_N: Tensor | None,
    residual_MN: Tensor | None,
    longest: Sequence[int],
    longest_transposed: Sequence[int],
    out_features: int,
    transposed: bool,
    activation: str,
    backend: str,
) -> Tensor:
    """act(x Wᵀ + bias) + residual, or with W in place of Wᵀ where transposed: [M, out_features].

    The backend is one that `resolve_backend` returned.
    """
    if backend == "triton" and values.shape[0] and x_MK.shape[0]:
        work_lists = (steps, cuts, longest), (steps_transposed, cuts_transposed, longest_transposed)
        work_list = work_lists[transposed]
        return _triton_product(x_MK, values, work_list, bias_N, residual_MN, out_features, transposed, activation)
    y_MN = _torch_product(x_MK, values, row, col, out_features, transposed, backend)
    if bias_N is not None:
        y_MN = y_MN + bias_N
    y_MN = naive.activate(y_MN, activation)
    return y_MN if residual_MN is None else y_MN + residual_MN


def _triton_product(
    x_MK: Tensor,
    values: Tensor,
    work_list: tuple[Tensor, Tensor, Sequence[int]],
    bias_N: Tensor | None,
    residual_MN: Tensor | None,
    out_features: int,
    transposed: bool,
    activation: str,
) -> Tensor:
    from vlcompress.kernels import launch

    residual_MN = None if residual_MN is None else rows_contiguous(residual_MN)
    steps, cuts, longest = work_list
    x_MK, values = rows_contiguous(x_MK), values.contiguous()
    product = launch.Product(x_MK, values, steps, cuts, tuple(longest), out_features, transposed, bias_N, residual_MN)
    return launch.run(product, activation)


def _torch_product(
    x_MK: Tensor, values: Tensor, row: Tensor, col: Tensor, out_features: int, transposed: bool, backend: str
) -> Tensor:
    if backend == "dense":
        shape = (x_MK.shape[1], out_features) if transposed else (out_features, x_MK.shape[1])
        w_NK = dense_from_blocks(values, row, col, shape)
        return x_MK @ w_NK if transposed else functional.linear(x_MK, w_NK)
    output, source = (col, row) if transposed else (row, col)
    return grouped.product(x_MK, values, output, source, out_features, transposed)


def rows_contiguous(x_MK: Tensor) -> Tensor:
    """Copy a tensor that no kernel can read (a slice of wider rows can be read)."""
    readable = x_MK.stride(1) == 1 and x_MK.stride(0) >= x_MK.shape[1]
    return x_MK if readable else x_MK.contiguous()


@block_sparse_product.register_fake
def _(x_MK: Tensor, *args: Any) -> Tensor:
    return x_MK.new_empty(x_MK.shape[0], args[11])


@torch.library.custom_op("vlcompress::block_sparse_values_gradient", mutates_args=())
def block_sparse_values_gradient(
    dy_MN: Tensor, x_MK: Tensor, row: Tensor, col: Tensor, block: Sequence[int], backend: str
) -> Tensor:
    """dYᵀ X at the stored blocks: [nnz, R, C]."""
    height, width = block
    if row.numel() == 0 or x_MK.shape[0] == 0:
        return x_MK.new_zeros(row.numel(), height, width)
    if backend == "triton":
        from vlcompress.kernels import launch

        return launch.values_gradient(rows_contiguous(dy_MN), rows_contiguous(x_MK), row, col, (height, width))
    return grouped.values_gradient(dy_MN, x_MK, row, col, (height, width))


@block_sparse_values_gradient.register_fake
def _(dy_MN: Tensor, x_MK: Tensor, row: Tensor, col: Tensor, block: Sequence[int], backend: str) -> Tensor:
    return x_MK.new_empty(row.shape[0], *block)


def _save_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, residual, longest, longest_transposed, _, transposed, activation, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.longest = longest, longest_transposed
    ctx.transposed, ctx.activation, ctx.backend = transposed, activation, backend
    ctx.has_residual = residual is not None


def _product_backward(ctx: Any, dy_MN: Tensor) -> tuple[Any, ...]:
    x_MK, values, row, col, *work_lists, bias_N = ctx.saved_tensors
    product, index, longest = _operators.block_sparse_product, (row, col, *work_lists), ctx.longest
    dz_MN = dy_MN
    if ctx.activation != "none":
        n_out = dy_MN.shape[1]
        z_MN = product(x_MK, values, *index, bias_N, None, *longest, n_out, ctx.transposed, "none", ctx.backend)
        dz_MN = naive.activation_gradient(z_MN, dy_MN, ctx.activation)
    needs_x, needs_values, needs_bias = ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[8]
    dx = dvalues = dbias = None
    if needs_x:
        dx = product(
            dz_MN, values, *index, None, None, *longest, x_MK.shape[1], not ctx.transposed, "none", ctx.backend
        )
    if needs_values:
        left, right = (x_MK, dz_MN) if ctx.transposed else (dz_MN, x_MK)
        block = list(values.shape[1:])
        dvalues = _operators.block_sparse_values_gradient(left, right, row, col, block, ctx.backend)
    if needs_bias and bias_N is not None:
        dbias = dz_MN.sum(0)
    return dx, dvalues, *[None] * 6, dbias, dy_MN if ctx.has_residual else None, *[None] * 6


block_sparse_product.register_autograd(_product_backward, setup_context=_save_product)

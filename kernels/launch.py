"""From tensors to a grid: the host side of each Triton kernel.

This is the only module that starts kernels. It is imported where one is about to start, so that the package imports
without Triton. Nothing here waits for the device or copies from it: a call can be captured in a CUDA graph.

Legend: M rows of X, N out features, K in features, R x C block, nnz stored blocks.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from vlcompress.kernels import configs, interpreter, triton_gradient, triton_pieces, triton_pointer, triton_tma
from vlcompress.kernels.configs import KernelConfig
from vlcompress.kernels.partition import Partition, Work, cheapest
from vlcompress.kernels.triton_epilogue import activation_code
from vlcompress.kernels.work_list import cut_offset

INTERPRETED = not isinstance(triton_tma.product_tma, triton.runtime.jit.JITFunction)
"""Whether Triton runs these kernels in its interpreter, on CPU tensors (TRITON_INTERPRET=1 when they were imported)."""

if INTERPRETED:
    interpreter.mend()

UNFENCED = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7)
"""Whether this Triton leaves out the fence between asynchronous copies and the matrix units of sm_90 and later.

Without it wgmma may read a tile before cp.async has written it (seen in the PTX of 3.6: no `fence.proxy.async` in
kernels that read by pointers; TMA needs none). Loads that pass through registers are fenced, so there those kernels run
with a single stage, and few rows go by TMA.
"""

PROGRAMS_PER_SM = 2
GRADIENT_ROWS = 64
FENCED_ROWS = 64
"""Rows a program of few rows that go by TMA: what a wgmma takes."""
MOST_PLANS = 4096
_plans: dict[tuple[object, ...], tuple[KernelConfig, Partition]] = {}


@dataclass(frozen=True)
class Product:
    """One product X Wᵀ, or X W by the transposed work list, with what its epilogue adds.

    Attributes:
        x: [M, K], rows contiguous.
        values: [nnz, R, C], contiguous, nnz > 0.
        steps, cuts, longest: the work list (work_list.WorkList).
        out_features: N.
        transposed: whether the work list is the transposed one.
        bias: [N] or None.
        residual: [M, N], rows contiguous, or None.
    """

    x: Tensor
    values: Tensor
    steps: Tensor
    cuts: Tensor
    longest: tuple[int, ...]
    out_features: int
    transposed: bool = False
    bias: Tensor | None = None
    residual: Tensor | None = None

    @property
    def block(self) -> tuple[int, int]:
        """(OUT, RED): the sides of a stored block over the output and over the reduction."""
        _, height, width = self.values.shape
        return (width, height) if self.transposed else (height, width)

    @property
    def outputs(self) -> int:
        """Number of output blocks in a row of Y."""
        return self.out_features // self.block[0]

    @property
    def density(self) -> float:
        """Fraction of the blocks that is stored."""
        return self.values.shape[0] / (self.outputs * (self.x.shape[1] // self.block[1]))


def run(
    product: Product,
    activation: str = "none",
    config: KernelConfig | None = None,
    out_MN: Tensor | None = None,
    cut: Partition | None = None,
) -> Tensor:
    """Compute act(product + bias) + residual, [M, N] in X's dtype, with the table's configuration unless one is given.

    Args:
        out_MN: contiguous [M, N] to write to; by default a new tensor.
        cut: how the work is shared; by default what is cheapest, for which rows a program may be halved.
    """
    with on_device_of(product.x):
        return _run(product, activation, config, out_MN, cut)


def _run(
    product: Product, activation: str, config: KernelConfig | None, out_MN: Tensor | None, cut: Partition | None
) -> Tensor:
    if config is None and cut is None:
        config, cut = planned(product)
    else:
        config = fitted(config or table_config(product), product)
        if cut is None:
            config, cut = cheapest_cut(product, config)
    y_MN = product.x.new_empty(product.x.shape[0], product.out_features) if out_MN is None else out_MN
    pieces = product.x.new_empty(
        (cut.parts, 2, y_MN.shape[0], product.block[0]) if cut.splits_outputs else 0, dtype=torch.float32
    )
    launcher = _run_tma if config.kernel == "tma" else _run_pointer
    launcher(product, y_MN, pieces, activation, config, cut)
    if cut.splits_outputs:
        _add_pieces(product, y_MN, pieces, activation, config, cut)
    return y_MN


def values_gradient(dy_MN: Tensor, x_MK: Tensor, row: Tensor, col: Tensor, block: tuple[int, int]) -> Tensor:
    """Multiply dYᵀ X at the stored blocks: [nnz, R, C] in X's dtype."""
    with on_device_of(x_MK):
        return _values_gradient(dy_MN, x_MK, row, col, block)


def _values_gradient(dy_MN: Tensor, x_MK: Tensor, row: Tensor, col: Tensor, block: tuple[int, int]) -> Tensor:
    nnz, m = row.numel(), x_MK.shape[0]
    wanted = PROGRAMS_PER_SM * multiprocessors(x_MK.device)
    split = max(1, min(8, wanted // nnz, _row_tiles(m, GRADIENT_ROWS)))
    partial = torch.empty(split, nnz, *block, dtype=torch.float32, device=x_MK.device)
    large, stages = block[0] * block[1] > 8192, 1 if _unfenced(x_MK.device) else 3
    triton_gradient.values_gradient[(nnz, split)](
        dy_MN, x_MK, row, col, partial, m, nnz, dy_MN.stride(0), x_MK.stride(0),
        SPLIT=split, BLOCK_T=32 if large else GRADIENT_ROWS, R=block[0], C=block[1],
        PRECISION=precision(x_MK.dtype, x_MK.device), STAGES=stages, num_warps=8 if large else 4, num_stages=stages,
    )  # fmt: skip
    return (partial[0] if split == 1 else partial.sum(0)).to(x_MK.dtype)


def planned(product: Product) -> tuple[KernelConfig, Partition]:
    """Choose configuration and cut of a product, once for all products of its kind in this process."""
    x = product.x
    exact = x.dtype == torch.float32 and not allows_tf32()
    key = (
        x.shape, x.dtype, x.device, product.values.shape, product.longest, product.out_features, product.transposed,
        exact, _tma_reads(product), *configs.tables_in_use(),
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        # Held by name: another thread may clear the plans meanwhile.
        plan = _plans[key] = cheapest_cut(product, fitted(table_config(product), product))
    return plan


def table_config(product: Product) -> KernelConfig:
    """Look up the configuration of a product on its device; the pointer kernel in the interpreter."""
    m, k = product.x.shape
    table = "sm_80" if product.x.device.type == "cpu" else table_of(product.x.device)
    return configs.config_for(table, product.out_features, k, product.block, m, round(product.density, 2))


def fitted(config: KernelConfig, product: Product) -> KernelConfig:
    """Adapt a configuration to a product: pointers where TMA cannot read X, stages that fit."""
    device = product.x.device
    if config.kernel == "small" and _unfenced(device):
        config = KernelConfig("tma", FENCED_ROWS, configs.warps_for(FENCED_ROWS, product.block), config.stages)
    if config.kernel == "tma" and not _tma_reads(product):
        config = KernelConfig("pointer", config.block_m, config.warps, config.stages)
    if not INTERPRETED and precision(product.x.dtype, device) != "tf32":
        config = configs.exact(config, product.block)
    config = configs.fit(config, product.block, product.x.element_size(), shared_bytes(device))
    return replace(config, stages=1) if config.kernel == "pointer" and _unfenced(device) else config


def cheapest_cut(product: Product, config: KernelConfig) -> tuple[KernelConfig, Partition]:
    """Choose how this product is shared among programs, and the configuration that suits it (partition.py)."""
    x, (m, k) = product.x, product.x.shape
    work = Work(m, k, product.block, product.outputs, product.longest, x.element_size())
    return cheapest(work, config, multiprocessors(x.device), shared_bytes(x.device))


def precision(dtype: torch.dtype, device: torch.device) -> str:
    """Choose how tiles are multiplied (only fp32 has a choice).

    In TF32 where torch's own setting lets dense products do so; else by three TF32 products, which keep the float32
    mantissa up to its last bits, on sm_90 and later: exact products there have no matrix instruction and spill
    kilobytes a thread. sm_80 multiplies exactly without spilling.
    """
    if dtype != torch.float32 or allows_tf32():
        return "tf32"
    return "ieee" if INTERPRETED or configs.arch_of(table_of(device)) == "sm_80" else "tf32x3"


def refusal(device: torch.device, dtype: torch.dtype, block: tuple[int, int]) -> str | None:
    """Say why no kernel takes this dtype in these blocks on a CUDA device; None if one does."""
    if dtype != torch.float32 or allows_tf32():
        return None
    return configs.no_exact_because(table_of(device), block)


def allows_tf32() -> bool:
    """Tell whether torch lets float32 run in TF32; it refuses to read its older setting once the newer is used."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        matmul: Any = torch.backends.cuda.matmul
        return bool(matmul.fp32_precision == "tf32")


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make x's device the current one: Triton launches there, whatever device its arguments are on."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


@lru_cache
def table_of(device: torch.device) -> str:
    """Name the table of a CUDA device."""
    return configs.table_name(*torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """Count a CUDA device's multiprocessors; 4 for the interpreter, so that small grids have several parts too."""
    return 4 if device.type == "cpu" else int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache
def shared_bytes(device: torch.device) -> int:
    """Count the bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return configs.SHARED_BYTES["sm_90"]
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


def _unfenced(device: torch.device) -> bool:
    return UNFENCED and not INTERPRETED and configs.arch_of(table_of(device)) != "sm_80"


def _tma_reads(product: Product) -> bool:
    """Tell whether the copy engine can read X and the values: it wants bases and rows at multiples of 16 bytes."""
    x = product.x
    aligned = x.data_ptr() % 16 == product.values.data_ptr() % 16 == 0
    return aligned and x.stride(0) * x.element_size() % 16 == 0


def _epilogue(product: Product, activation: str) -> dict[str, Any]:
    return {
        "HAS_BIAS": product.bias is not None,
        "HAS_RESIDUAL": product.residual is not None,
        "ACTIVATION": activation_code(activation, product.x.dtype),
        # tanh.approx is within 2^-11: more than fp32 outputs may lose.
        "HARDWARE_TANH": not INTERPRETED and product.x.dtype != torch.float32,
    }


def _run_tma(
    product: Product, y_MN: Tensor, pieces: Tensor, activation: str, config: KernelConfig, cut: Partition
) -> None:
    x, (out, red) = product.x, product.block
    values_2d = product.values.view(-1, product.values.shape[2])
    row_tiles = _row_tiles(x.shape[0], config.block_m)
    triton_tma.product_tma[(row_tiles * cut.parts,)](
        TensorDescriptor.from_tensor(x, [config.block_m, red]),
        TensorDescriptor.from_tensor(values_2d, list(product.values.shape[1:])),
        product.steps, _cuts(product, cut),
        _bias(product, y_MN), _or(product.residual, y_MN),
        TensorDescriptor.from_tensor(y_MN, [config.block_m, out]), pieces,
        product.longest[0], cut.parts, cut.group, x.shape[0], _or(product.residual, y_MN).stride(0),
        BLOCK_M=config.block_m, OUT=out, RED=red, TRANSPOSED=product.transposed,
        **_epilogue(product, activation), SPLITS_OUTPUTS=cut.splits_outputs, PRECISION=precision(x.dtype, x.device),
        STAGES=config.stages, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


def _run_pointer(
    product: Product, y_MN: Tensor, pieces: Tensor, activation: str, config: KernelConfig, cut: Partition
) -> None:
    x, residual = product.x, _or(product.residual, y_MN)
    row_tiles = _row_tiles(x.shape[0], config.block_m)
    triton_pointer.product_pointer[(row_tiles * cut.parts,)](
        x, product.values, product.steps, _cuts(product, cut), _bias(product, y_MN), residual, y_MN, pieces,
        product.longest[0], cut.parts, cut.group, x.shape[0], product.out_features,
        x.stride(0), residual.stride(0), product.values.shape[0],
        BLOCK_M=config.block_m, **_sides(product), **_epilogue(product, activation),
        EVEN_M=x.shape[0] % config.block_m == 0, SWAPPED=config.kernel == "small", SPLITS_OUTPUTS=cut.splits_outputs,
        PRECISION=precision(x.dtype, x.device), STAGES=config.stages, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


def _add_pieces(
    product: Product, y_MN: Tensor, pieces: Tensor, activation: str, config: KernelConfig, cut: Partition
) -> None:
    (m, n), residual = y_MN.shape, _or(product.residual, y_MN)
    triton_pieces.add_pieces[(cut.parts - 1, _row_tiles(m, config.block_m))](
        product.steps, pieces, _bias(product, y_MN), residual, y_MN,
        product.longest[0], cut.parts, m, n, residual.stride(0),
        BLOCK_M=config.block_m, OUT=product.block[0], **_epilogue(product, activation), num_warps=4,
    )  # fmt: skip


def _row_tiles(rows: int, block_m: int) -> int:
    """Count tiles of block_m rows; triton.cdiv takes microseconds on the host."""
    return -(-rows // block_m)


def _sides(product: Product) -> dict[str, int]:
    """Name the sides of a stored block and the strides in it; the values keep one layout for both directions."""
    (out, red), width = product.block, product.values.shape[2]
    strides = (1, width) if product.transposed else (width, 1)
    return {"OUT": out, "RED": red, "STRIDE_OUT": strides[0], "STRIDE_RED": strides[1]}


def _cuts(product: Product, cut: Partition) -> Tensor:
    return product.cuts if cut.splits_outputs else product.cuts[cut_offset(product.outputs, cut.parts) :]


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """Stand in for a missing tensor with one of its dtype that the kernel will not read."""
    return stand_in if tensor is None else tensor


def _bias(product: Product, stand_in: Tensor) -> Tensor:
    return stand_in if product.bias is None else product.bias.contiguous()

"""Dense or block-sparse: the choice for one linear on one device, and the reason for it.

Below the break-even sparsity the dense product is the faster one, and then it is what should run. The choice
compares the two times of the table's nearest entries; between the densities of the table the sparse time is
interpolated, and beyond them continued along the last line. ``vlcompress compile`` writes the reason into its plan.

Legend: M rows of the input, N out features, K in features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlcompress.kernels import configs, naive
from vlcompress.kernels.block_sparse_linear import HAS_TRITON, TRITON_DTYPES, block_sparse_linear
from vlcompress.kernels.configs import Entry, KernelConfig
from vlcompress.kernels.formats import BlockPattern, BlockSparseWeight


@dataclass(frozen=True)
class Choice:
    """What runs one linear.

    Attributes:
        backend: "dense", "triton" or "grouped".
        config: how the Triton kernel is launched; None for the others.
        reason: why, in one sentence, with the times and where they come from.
    """

    backend: str
    config: KernelConfig | None
    reason: str


def choose(pattern: BlockPattern, m: int, device: torch.device, dtype: torch.dtype) -> Choice:
    """The backend for `m` rows of input on a device."""
    if device.type != "cuda":
        return Choice("grouped", None, f"no Triton kernels on {device.type}")
    if not HAS_TRITON:
        return Choice("grouped", None, "Triton is not installed")
    if dtype not in TRITON_DTYPES:
        return Choice("grouped", None, f"no Triton kernel for {dtype}")
    return choose_for_arch(configs.arch_of(*torch.cuda.get_device_capability(device)), pattern, m)


def choose_for_arch(arch: str, pattern: BlockPattern, m: int) -> Choice:
    """The same for an arch that need not be at hand."""
    (n, k), density = pattern.shape, pattern.density
    config = configs.config_for(arch, n, k, pattern.block, m, density)
    entry = configs.find(arch, n, k, pattern.block, m, density)
    if entry is None:
        return Choice("triton", config, f"no time for block {pattern.block} on {arch}: run `vlcompress tune`")
    sparse_us = sparse_time(arch, entry, density)
    reason = _reason(entry, sparse_us)
    if sparse_us >= entry.dense_us:
        return Choice("dense", None, f"dense: {reason}")
    return Choice("triton", config, f"block-sparse: {reason}")


def sparse_time(arch: str, entry: Entry, density: float) -> float:
    """Microseconds of the sparse product at this density, from the entries that differ from `entry` in density only."""
    points = sorted(
        (other.density, other.sparse_us)
        for other in configs.load_table(arch)
        if (other.n, other.k, other.block, other.m) == (entry.n, entry.k, entry.block, entry.m)
    )
    if len(points) == 1:
        return points[0][1]
    upper = next((i for i in range(1, len(points)) if points[i][0] >= density), len(points) - 1)
    (d0, t0), (d1, t1) = points[upper - 1], points[upper]
    # Below the sparsest entry the launch and the activations remain: no extrapolation towards zero.
    return max(points[0][1], t0 + (t1 - t0) * (density - d0) / (d1 - d0))


def linear(
    x: Tensor,
    weight: BlockSparseWeight,
    w_NK: Tensor | None,
    choice: Choice,
    bias_N: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """act(x Wᵀ + bias) + residual by the chosen backend.

    Args:
        w_NK: the same weight, dense, for when dense is the choice; without it W is unpacked in every call.
    """
    if choice.backend == "dense" and w_NK is not None:
        return naive.linear(x, w_NK, bias_N, activation, residual)
    return block_sparse_linear(x, weight, bias_N, activation, residual, choice.backend)


def _reason(entry: Entry, sparse_us: float) -> str:
    origin = "measured" if entry.measured else "modelled, not measured"
    key = f"N={entry.n}, K={entry.k}, block {entry.block[0]}x{entry.block[1]}, M={entry.m}"
    return f"{sparse_us:.1f} µs against {entry.dense_us:.1f} µs dense ({origin}, nearest entry {key})"

"""Measure the table again on the GPU at hand: the library behind ``vlcompress tune``.

For each key, every candidate configuration is first checked against float64; those that are right are timed in turn
with the dense product, and the fastest becomes the entry. A candidate that does not compile, does not fit or is
wrong is left out.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional

from vlcompress.kernels import configs, cost_model, launch, timing
from vlcompress.kernels.configs import Entry, KernelConfig
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockSparseWeight, unpack
from vlcompress.kernels.synthetic import random_weight
from vlcompress.kernels.timing import Timing

TOLERANCE = 1e-2
"""Relative error that bf16 output may have against float64."""

Timer = Callable[[Mapping[str, Sequence[timing.Call]]], dict[str, Timing]]


@dataclass(frozen=True)
class Key:
    """What one entry of a table is for."""

    n: int
    k: int
    block: tuple[int, int]
    m: int
    density: float


def keys(shapes: Sequence[tuple[int, int]] = cost_model.SHAPES, rows: Sequence[int] = cost_model.ROWS) -> list[Key]:
    """The keys of a table over (N, K) shapes and rows M, for the blocks and densities of the shipped ones."""
    grid = itertools.product(shapes, cost_model.BLOCKS, rows, cost_model.DENSITIES)
    return [Key(n, k, block, m, density) for (n, k), block, m, density in grid]


def tune(
    device: torch.device,
    wanted: Sequence[Key],
    progress: Callable[[str], None] = lambda line: None,
    timer: Timer = timing.interleaved,
) -> list[Entry]:
    """Measure one entry for each key, in bf16.

    Args:
        progress: called with one line after each key.

    Raises:
        KernelInputError: the device has no CUDA, or no candidate is right.
    """
    if device.type != "cuda" and not launch.INTERPRETED:
        raise KernelInputError(f"tuning needs a CUDA device, not {device}: the shipped tables hold modelled times")
    entries = []
    for done, key in enumerate(wanted, start=1):
        entry = measure(key, device, timer)
        entries.append(entry)
        progress(f"{done}/{len(wanted)} {key}: {entry.sparse_us:.1f} µs, dense {entry.dense_us:.1f} µs, {entry.config}")
    return entries


def measure(key: Key, device: torch.device, timer: Timer) -> Entry:
    """The fastest right configuration of one key, with its time and the dense product's.

    Raises:
        KernelInputError: no candidate is right.
    """
    weight = random_weight((key.n, key.k), key.block, 1 - key.density, torch.bfloat16).to(device)
    x_MK = torch.randn(key.m, key.k, device=device, dtype=torch.bfloat16)
    truth = x_MK.double() @ unpack(weight).double().T
    right = {config: config for config in candidates(table_arch(device), key) if is_right(config, weight, x_MK, truth)}
    if not right:
        raise KernelInputError(f"no kernel computes {key} correctly on this device: do not use its block-sparse path")
    times = timer({str(config): _calls(config, weight, x_MK) for config in right} | {"dense": _dense(weight, x_MK)})
    best = min(right, key=lambda config: times[str(config)].median_us)
    sparse, dense = times[str(best)].median_us, times["dense"].median_us
    return Entry(key.n, key.k, key.block, key.m, key.density, best, round(sparse, 2), round(dense, 2), measured=True)


def candidates(arch: str, key: Key) -> Iterator[KernelConfig]:
    """The configurations worth measuring for a key."""
    if key.m <= 2 * configs.SMALL_M:
        for block_m, split in itertools.product((16, 32), (1, 2, 4, 8)):
            yield KernelConfig("small", block_m, warps=4, stages=4, split=split)
    streams = ("pointer",) if arch == "sm_80" else ("tma", "pointer")
    for kernel, block_m, stages in itertools.product(streams, (64, 128), (2, 3, 4)):
        warps = (4, 8) if block_m * key.block[0] >= 8192 else (4,)
        for count in warps:
            yield KernelConfig(kernel, block_m, count, stages)


def is_right(config: KernelConfig, weight: BlockSparseWeight, x_MK: Tensor, truth_MN: Tensor) -> bool:
    """Whether the kernel runs, leaves its configuration as it is, and comes within ``TOLERANCE``."""
    product = product_of(weight, x_MK)
    try:
        if launch.fitted(config, product) != config:
            return False
        y_MN = launch.run(product, config=config)
    except (KernelInputError, triton.CompilationError, triton.runtime.errors.OutOfResources):
        return False
    error = (y_MN.double() - truth_MN).norm() / truth_MN.norm()
    return bool(error < TOLERANCE)


def product_of(weight: BlockSparseWeight, x_MK: Tensor) -> launch.Product:
    """The forward product of a weight."""
    stream = weight.pattern.forward
    return launch.Product(x_MK, weight.values, stream.walk, stream.cuts, stream.longest, weight.pattern.shape[0])


def save(entries: Sequence[Entry], device: torch.device, folder: Path) -> Path:
    """Write the table of this device; with ``VLCOMPRESS_KERNEL_TABLES`` set to the folder it takes effect."""
    arch = table_arch(device)
    path = folder / f"{arch}.json"
    configs.write_table(path, arch, entries, {"source": "measured by vlcompress tune", **environment(device)})
    return path


def environment(device: torch.device) -> dict[str, Any]:
    """What a measured figure depends on: device, driver and versions."""
    if device.type != "cuda":
        return {"device": "interpreter", "torch": torch.__version__, "triton": triton.__version__}
    return {
        "device": torch.cuda.get_device_name(device),
        "multiprocessors": launch.multiprocessors(device),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def table_arch(device: torch.device) -> str:
    """The name of the table that this device uses."""
    return launch.device_arch(device) if device.type == "cuda" else "sm_90"


def _copies(x_MK: Tensor, weight: BlockSparseWeight) -> list[tuple[Tensor, BlockSparseWeight]]:
    bytes_per_call = 2 * (x_MK.numel() + x_MK.shape[0] * weight.pattern.shape[0] + weight.values.numel())
    count = timing.copies_beyond_cache(bytes_per_call, x_MK.device) if x_MK.is_cuda else 1
    return [(x_MK.clone(), replace(weight, values=weight.values.clone())) for _ in range(count)]


def _calls(config: KernelConfig, weight: BlockSparseWeight, x_MK: Tensor) -> list[timing.Call]:
    products = [product_of(copy, x) for x, copy in _copies(x_MK, weight)]
    return [lambda p=product: launch.run(p, config=config) for product in products]  # type: ignore[misc]


def _dense(weight: BlockSparseWeight, x_MK: Tensor) -> list[timing.Call]:
    pairs = [(x, unpack(copy)) for x, copy in _copies(x_MK, weight)]
    return [lambda x=x, w=w: functional.linear(x, w) for x, w in pairs]  # type: ignore[misc]

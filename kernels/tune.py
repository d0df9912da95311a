"""Measure the table of the GPU at hand: the library behind ``vlcompress tune``.

For each key, every candidate configuration is first checked against float64; those that are right are timed in turn
with the dense product, and the fastest becomes the entry. All products have what layers have: a bias, and GELU where
the output is wider than the input. A candidate that does not compile, does not fit or is wrong is left out, and said to
be.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from vlcompress.kernels import configs, launch, naive, timing
from vlcompress.kernels.configs import Entry, KernelConfig
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import TRITON_DTYPES, BlockSparseWeight, unpack
from vlcompress.kernels.synthetic import random_weight
from vlcompress.kernels.timing import GraphTiming

DTYPES = {"tf32" if name == "fp32" else name: dtype for dtype, name in TRITON_DTYPES.items()}
TOLERANCE = 1e-2
"""Relative error that an output may have against float64 in any of them."""

SHAPES = ((768, 768), (1536, 768), (2304, 768), (3072, 768), (768, 3072), (1024, 1024), (4096, 1024), (1024, 4096))
"""(N, K) of BERT-base, with q, k and v in one product too, and of BERT-large."""
BLOCKS = ((32, 32), (64, 64), (128, 64))
ROWS = (32, 640, 1152, 4096, 16384)
DENSITIES = (0.5, 0.3, 0.1)

Timer = Callable[[Mapping[str, Sequence[timing.Call]]], dict[str, GraphTiming]]


@dataclass(frozen=True)
class Key:
    """What one entry of a table is for."""

    n: int
    k: int
    block: tuple[int, int]
    m: int
    density: float


def keys(shapes: Sequence[tuple[int, int]] = SHAPES, rows: Sequence[int] = ROWS) -> list[Key]:
    """List the keys of a table over (N, K) shapes and rows M."""
    grid = itertools.product(shapes, BLOCKS, rows, DENSITIES)
    return [Key(n, k, block, m, density) for (n, k), block, m, density in grid]


def tune(
    device: torch.device,
    wanted: Sequence[Key],
    dtype: torch.dtype = torch.bfloat16,
    progress: Callable[[str], None] = lambda line: None,
    timer: Timer = timing.interleaved,
) -> Iterator[Entry]:
    """Measure one entry for each key; a key that no candidate computes correctly is told to `progress` and left out.

    Args:
        dtype: one of ``DTYPES``; float32 is multiplied in TF32 where torch's own setting allows that.
        progress: called with one line after each key and for each candidate that was left out.

    Raises:
        KernelInputError: the device has no CUDA.
    """
    if device.type != "cuda" and not launch.INTERPRETED:
        raise KernelInputError(f"tuning needs a CUDA device, not {device}: without a table a rule of thumb chooses")
    for done, key in enumerate(wanted, start=1):
        try:
            entry = measure(key, device, dtype, timer, progress)
        except KernelInputError as error:
            progress(f"{done}/{len(wanted)} {key}: {error}")
            continue
        progress(f"{done}/{len(wanted)} {key}: {entry.sparse_us:.1f} µs, dense {entry.dense_us:.1f} µs, {entry.config}")
        yield entry


def measure(
    key: Key,
    device: torch.device,
    dtype: torch.dtype,
    timer: Timer,
    progress: Callable[[str], None] = lambda line: None,
) -> Entry:
    """Measure one key: its fastest right configuration, that one's time and the dense product's.

    Raises:
        KernelInputError: no candidate is right.
    """
    case = make_case(key, device, dtype)
    right = []
    for config in candidates(table_of(device), key):
        why = wrong_because(config, case)
        if why is None:
            right.append(config)
        else:
            progress(f"  left out {config}: {why}")
    if not right:
        raise KernelInputError(f"no kernel computes {key} correctly on this device: do not use its block-sparse path")
    times = timer({str(config): _calls(config, case) for config in right} | {"dense": _dense(case)})
    best = min(right, key=lambda config: times[str(config)].median_us)
    sparse, dense = times[str(best)].median_us, times["dense"].median_us
    return Entry(key.n, key.k, key.block, key.m, key.density, best, round(sparse, 2), round(dense, 2))


@dataclass(frozen=True)
class Case:
    """One product with what its layer adds: act(x Wᵀ + bias), and the truth in float64."""

    x: Tensor
    weight: BlockSparseWeight
    bias: Tensor
    activation: str
    truth: Tensor


def make_case(key: Key, device: torch.device, dtype: torch.dtype) -> Case:
    """Draw the inputs of one key."""
    weight = random_weight((key.n, key.k), key.block, 1 - key.density, dtype).to(device)
    x_MK, bias_N = (torch.randn(shape, device=device).to(dtype) for shape in ((key.m, key.k), (key.n,)))
    activation = "gelu" if key.n > key.k else "none"
    truth = naive.linear(x_MK.double(), unpack(weight).double(), bias_N.double(), activation)
    return Case(x_MK, weight, bias_N, activation, truth)


def candidates(table: str, key: Key) -> Iterator[KernelConfig]:
    """Yield the configurations worth measuring for a key."""
    if key.m <= 2 * configs.SMALL_M:
        for block_m, stages in itertools.product((16, 32), (3, 4)):
            yield KernelConfig("small", block_m, warps=4, stages=stages)
    kernels = ("pointer",) if configs.arch_of(table) == "sm_80" else ("tma", "pointer")
    for kernel, block_m, stages in itertools.product(kernels, (64, 128), (2, 3, 4)):
        warps = (4, 8) if block_m * key.block[0] >= 8192 else (4,)
        for count in warps:
            yield KernelConfig(kernel, block_m, count, stages)


def wrong_because(config: KernelConfig, case: Case) -> str | None:
    """Say why a configuration is no candidate: does not fit or compile, fails, or is wrong; None if it is right.

    Whatever a compiler or a driver raises costs its candidate, not the table.
    """
    product = product_of(case)
    try:
        if launch.fitted(config, product) != config:
            return "it does not fit"
        y_MN = launch.run(product, case.activation, config)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    off = float((y_MN.double() - case.truth).norm() / case.truth.norm())
    return None if off < TOLERANCE else f"its error is {off:.2g}, allowed is {TOLERANCE:g}"


def product_of(case: Case) -> launch.Product:
    """Set up the forward product of a case."""
    work_list, weight = case.weight.pattern.forward, case.weight
    return launch.Product(
        case.x, weight.values, work_list.steps, work_list.cuts, work_list.longest, weight.shape[0], bias=case.bias
    )


def save(entries: Iterable[Entry], device: torch.device, dtype: torch.dtype, folder: Path) -> Path:
    """Write the table of this device after each entry, so that a kill loses the key at hand and no other.

    With ``VLCOMPRESS_KERNEL_TABLES`` set to the folder it takes effect.

    Raises:
        KernelInputError: not a single entry was measured; nothing is written.
    """
    table = table_of(device)
    path, written = folder / f"{table}.json", []
    origin = {"source": "measured by vlcompress tune", "dtype": _name(dtype), **environment(device)}
    for entry in entries:
        written.append(entry)
        configs.write_table(path, table, written, origin)
    if not written:
        raise KernelInputError("no key was measured, so no table was written: see the lines above")
    return path


def environment(device: torch.device) -> dict[str, Any]:
    """Record what a measured figure depends on: device and versions."""
    if device.type != "cuda":
        return {"device": "interpreter", "torch": torch.__version__, "triton": triton.__version__}
    return {
        "device": torch.cuda.get_device_name(device),
        "multiprocessors": launch.multiprocessors(device),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def table_of(device: torch.device) -> str:
    """Name the table that this device uses."""
    return launch.table_of(device) if device.type == "cuda" else "sm_90"


def _name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def _copies(case: Case) -> list[Case]:
    (m, _), n, values = case.x.shape, case.weight.shape[0], case.weight.values
    bytes_per_call = values.element_size() * (case.x.numel() + m * n + values.numel())
    count = timing.copies_beyond_cache(bytes_per_call, case.x.device) if case.x.is_cuda else 1
    return [replace(case, x=case.x.clone(), weight=replace(case.weight, values=values.clone())) for _ in range(count)]


def _calls(config: KernelConfig, case: Case) -> list[timing.Call]:
    products = [product_of(copy) for copy in _copies(case)]
    return [lambda p=product: launch.run(p, case.activation, config) for product in products]  # type: ignore[misc]


def _dense(case: Case) -> list[timing.Call]:
    pairs = [(copy.x, unpack(copy.weight)) for copy in _copies(case)]
    return [lambda x=x, w=w: naive.linear(x, w, case.bias, case.activation) for x, w in pairs]  # type: ignore[misc]

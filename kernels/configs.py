"""Which kernel runs with which tile: a measured table where there is one, looked up and never tuned at run time.

`vlcompress tune` writes ``<name>.json``, entries keyed (N, K, block, M, density), into the folder that the environment
names by ``VLCOMPRESS_KERNEL_TABLES``; none is shipped, and without one :func:`rule_of_thumb` chooses. The nearest-key
rule, in this order:

1. table: the device's own (``sm_90-h100`` for an H100), else that of its arch (8.6 and 8.9: sm_80; 10.x: sm_100; 12.x
   has neither wgmma nor tcgen05 and takes sm_80).
2. block: exact. A block that no entry has takes :func:`rule_of_thumb`, since a tile that fits one block may not fit
   another.
3. (N, K): the smallest |log2 N/N'| + |log2 K/K'|; then M: the smallest |log2 M/M'|; then the nearest density.

Last, pipeline stages are taken away until the tiles fit the shared memory of the device at hand and the dtype
(:func:`fit`), so an entry measured in bf16 serves fp32 as well.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompress.kernels.errors import KernelInputError

ARCHS = ("sm_80", "sm_90", "sm_100")
CHIP_TABLES = {"H100": "sm_90-h100"}
"""Tables of single chips, by a word of the device's name; others have that of their arch (sm_90: an H200)."""
KERNELS = ("tma", "pointer", "small")
TABLES_VARIABLE = "VLCOMPRESS_KERNEL_TABLES"
"""Environment variable: a folder of tables, as `vlcompress tune` writes them."""

SMALL_M = 64
MEDIUM_M = 2048
_writes = 0
SHARED_BYTES = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
"""Shared memory that one program may have, from the CUDA programming guide's table of compute capabilities."""

OTHER_REGISTERS = 96
"""Estimate of a thread's registers beside its accumulator."""
PIECE_ACCUMULATORS = 32
"""Elements of the accumulator a thread in kernels that split outputs; with 64 they spill on sm_80."""


@dataclass(frozen=True)
class KernelConfig:
    """How one product is launched.

    Attributes:
        kernel: "tma" (sm_90 and later), "pointer" (any chip) or "small" (by pointers with operands swapped, few rows).
        block_m: rows of X a program, a power of two from 16 to 128.
        warps: 4 or 8.
        stages: tiles in flight, from 2 up.
    """

    kernel: str
    block_m: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Entry:
    """One row of a table: the key, the configuration, and the times that chose it.

    Attributes:
        m, n, k, block, density: the key.
        config: what to launch.
        sparse_us, dense_us: measured microseconds of the kernel and of the dense product.
    """

    n: int
    k: int
    block: tuple[int, int]
    m: int
    density: float
    config: KernelConfig
    sparse_us: float
    dense_us: float


def find(table: str, n: int, k: int, block: tuple[int, int], m: int, density: float) -> Entry | None:
    """Find the entry nearest to a product by the rule above; None where no entry has this block."""
    candidates = [entry for entry in load_table(table) if entry.block == block]
    if not candidates:
        return None

    def distance(entry: Entry) -> tuple[float, float, float]:
        shape = abs(math.log2(entry.n / n)) + abs(math.log2(entry.k / k))
        return shape, abs(math.log2(entry.m / max(m, 1))), abs(entry.density - density)

    return min(candidates, key=distance)


def config_for(table: str, n: int, k: int, block: tuple[int, int], m: int, density: float) -> KernelConfig:
    """Choose the configuration of a product: the nearest entry's, or the rule of thumb's."""
    entry = find(table, n, k, block, m, density)
    return rule_of_thumb(table, block, m) if entry is None else entry.config


def rule_of_thumb(table: str, block: tuple[int, int], m: int) -> KernelConfig:
    """Choose by the regimes of the README: few, some and many rows."""
    if m <= SMALL_M:
        return KernelConfig("small", block_m=16 if m <= 16 else 32, warps=4, stages=4)
    kernel = "pointer" if arch_of(table) == "sm_80" else "tma"
    block_m = 64 if m < MEDIUM_M else 128
    return KernelConfig(kernel, block_m, warps_for(block_m, block), stages=4)


def warps_for(block_m: int, block: tuple[int, int]) -> int:
    """Count the warps that hold an accumulator [block_m, R] without spilling."""
    return 8 if block_m * block[0] > 8192 else 4


def fit(config: KernelConfig, block: tuple[int, int], itemsize: int, shared_bytes: int) -> KernelConfig:
    """Take away stages until the tiles fit shared memory, and rows where not even two stages do.

    Raises:
        KernelInputError: not even two stages of the smallest tile fit.
    """
    while _shared_need(config, block, itemsize) > shared_bytes:
        if config.stages > 2:
            config = replace(config, stages=config.stages - 1)
        elif config.block_m > 16:
            config = replace(config, block_m=config.block_m // 2)
        else:
            raise KernelInputError(
                f"block {block} needs more shared memory than {shared_bytes} bytes: use a smaller one"
            )
    return config


EXACT_SIDE = 64
"""Most rows of an exact fp32 tile, and the largest side of its block on sm_90 and later, where three TF32 products need
twice the registers for their operands: wider ones spill."""


def no_exact_because(table: str, block: tuple[int, int]) -> str | None:
    """Say why fp32 cannot be multiplied exactly (without TF32) in such blocks; None if it can."""
    if arch_of(table) == "sm_80" or max(block) <= EXACT_SIDE:
        return None
    return (
        f"exact fp32 products in blocks of {block[0]}x{block[1]} spill registers on {arch_of(table)}: prune in sides "
        f"of at most {EXACT_SIDE}, or compute in tf32 or bf16"
    )


def exact(config: KernelConfig, block: tuple[int, int]) -> KernelConfig:
    """Limit the rows for exact fp32, which would spill."""
    block_m = min(config.block_m, EXACT_SIDE)
    return replace(config, block_m=block_m, warps=warps_for(block_m, block))


def for_pieces(config: KernelConfig, block: tuple[int, int]) -> KernelConfig:
    """Limit the rows for splitting outputs, where storing pieces would take too many registers."""
    most = PIECE_ACCUMULATORS * 32 * config.warps
    while config.block_m > 16 and config.block_m * block[0] > most:
        config = replace(config, block_m=config.block_m // 2)
    return config


def programs_per_sm(
    config: KernelConfig, block: tuple[int, int], itemsize: int, shared_bytes: int, splits_outputs: bool = False
) -> int:
    """Count the programs of a multiprocessor: two, so that one multiplies while the other stores, if two fit.

    Args:
        shared_bytes: shared memory that one program may have; a multiprocessor has 1 KiB more, and keeps as much of it
            for each program.
        splits_outputs: whether pieces in fp32 pass through shared memory on their way out.
    """
    staging = 4 * config.block_m * block[0] if splits_outputs else 0
    fits = (shared_bytes + 1024) // (_shared_need(config, block, itemsize) + staging + 1024)
    threads = 32 * config.warps
    registers = threads * (config.block_m * block[0] // threads + OTHER_REGISTERS)
    return max(1, min(2, fits, 65_536 // registers))


def table_name(major: int, minor: int, device_name: str) -> str:
    """Name the table of a device of this compute capability and name.

    Raises:
        KernelInputError: the device is older than 8.0.
    """
    if major < 8:
        raise KernelInputError(f"compute capability {major}.{minor} is not supported: 8.0 or later is needed")
    arch = {9: "sm_90", 10: "sm_100", 11: "sm_100"}.get(major, "sm_80")
    own = (table for word, table in CHIP_TABLES.items() if word in device_name and arch_of(table) == arch)
    return next(own, arch)


def arch_of(table: str) -> str:
    """Name the arch that a table is for, one of ``ARCHS``."""
    return table.partition("-")[0]


def load_table(table: str) -> tuple[Entry, ...]:
    """Read a table from the folder that the environment names; () where there is none."""
    path = table_path(table)
    return read_table(path) if path else ()


def table_path(table: str) -> Path | None:
    """Find the file that :func:`load_table` reads."""
    folder = os.environ.get(TABLES_VARIABLE)
    return _table_path(table, folder) if folder else None


@lru_cache
def _table_path(table: str, folder: str) -> Path | None:
    """Look for the file once: a launch has no time for the file system."""
    paths = (Path(folder) / f"{name}.json" for name in (table, arch_of(table)))
    return next((path for path in paths if path.exists()), None)


@lru_cache
def read_table(path: Path) -> tuple[Entry, ...]:
    """Read the entries of one file.

    Raises:
        KernelInputError: the file is missing or is not a table.
    """
    try:
        document = json.loads(path.read_text())
        return tuple(_entry(row) for row in document["entries"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KernelInputError(
            f"{path} is not a table of kernel configurations ({error}): run `vlcompress tune`"
        ) from error


def tables_in_use() -> tuple[str | None, int]:
    """Name what a lookup depends on beside its key: the folder of tables, and how often one has been written."""
    return os.environ.get(TABLES_VARIABLE), _writes


def write_table(path: Path, table: str, entries: Iterable[Entry], origin: dict[str, Any]) -> None:
    """Write a table; `origin` says where its times come from (device, driver, versions)."""
    document = {"table": table, "origin": origin, "entries": [asdict(entry) for entry in entries]}
    path.parent.mkdir(parents=True, exist_ok=True)
    head, rows = json.dumps({k: document[k] for k in ("table", "origin")}, indent=1), document["entries"]
    body = ",\n".join("  " + json.dumps(row) for row in rows)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(f'{head[:-2]},\n "entries": [\n{body}\n ]\n}}\n')
    temporary.replace(path)
    global _writes
    _writes += 1
    read_table.cache_clear()
    _table_path.cache_clear()


def _entry(row: dict[str, Any]) -> Entry:
    config = KernelConfig(**row.pop("config"))
    if config.kernel not in KERNELS:
        raise KeyError(f"kernel '{config.kernel}' is none of {KERNELS}")
    row.pop("measured", None)  # of tables that were written while some were only modelled
    return Entry(**{**row, "block": (row["block"][0], row["block"][1])}, config=config)


def _shared_need(config: KernelConfig, block: tuple[int, int], itemsize: int) -> int:
    """Count the bytes of the ring of X and W tiles, of the tile that TMA stores from, and of the barriers."""
    height, width = block
    ring = config.stages * (config.block_m * width + height * width) * itemsize
    out = config.block_m * height * (itemsize if config.kernel == "tma" else 0)
    return ring + out + 1024

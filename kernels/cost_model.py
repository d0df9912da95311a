"""What a product should cost: a roofline with a simple model of tiles, for tables that nobody has measured yet.

Every time from here is **modelled, not measured**. The README derives the formula; in short::

    time = launch + max(makespan of the work list * time of a step + starts + pieces, bytes / bandwidth)

where a step takes the longer of its multiplications and its traffic from L2 into shared memory, and the makespan is
that of the very cuts that a launch would make (partition.py). The chips' ceilings are an H200's measured ones (bf16
product of 8192 x 8192 x 8192, device copy) and, for the others, 80 % of the published peaks; every L2 rate is a public
estimate. The share of a ceiling that a kernel reaches is an assumption, calibrated for dense products on published
cuBLAS figures only; for sparse ones it is charged so that at 0 % sparsity it costs at least 1.15 times the dense one.

    python -m vlcompress.kernels.cost_model     writes the shipped tables again

Legend: M rows, N out features, K in features, times in microseconds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from vlcompress.kernels import partition
from vlcompress.kernels.configs import (
    SHARED_BYTES,
    TABLES,
    Entry,
    KernelConfig,
    arch_of,
    rule_of_thumb,
    warps_for,
    write_table,
)
from vlcompress.kernels.formats import BlockPattern
from vlcompress.kernels.synthetic import pattern_of, random_mask

LAUNCH_US = 2.2
TILE_US = 0.7  # filling the pipeline and storing one tile of a dense product
PIECES_US = 1.2  # the launch that adds the pieces of a split reduction
BANDWIDTH_SHARE = 0.85
TRITON_SHARE = 1.15  # time of a full block-sparse product over cuBLAS: published gaps of Triton on Hopper, 1.04 to 1.21
ITEMSIZE = 2  # bf16

BERT_SHAPES = ((768, 768), (1536, 768), (2304, 768), (3072, 768), (768, 3072))
LARGE_SHAPES = ((1024, 1024), (4096, 1024), (1024, 4096))
SHAPES = BERT_SHAPES + LARGE_SHAPES
BLOCKS = ((32, 32), (64, 64), (128, 64))
ROWS = (32, 640, 1152, 4096, 16384)
DENSITIES = (0.5, 0.3, 0.1)


@dataclass(frozen=True)
class Chip:
    """A GPU's ceilings.

    Attributes:
        flops: bf16 operations a second.
        bandwidth: bytes a second from memory.
        l2: bytes a second from the L2 cache into shared memory, all multiprocessors together.
    """

    name: str
    flops: float
    bandwidth: float
    l2: float
    multiprocessors: int


CHIPS = {
    "sm_80": Chip("A100 80GB", 0.8 * 312e12, 0.8 * 2.04e12, 5.0e12, 108),
    "sm_90": Chip("H200", 790e12, 4.3e12, 8.7e12, 132),
    "sm_90-h100": Chip("H100 SXM", 0.8 * 989e12, 0.8 * 3.35e12, 8.7e12, 132),
    "sm_100": Chip("B200", 0.8 * 2250e12, 0.8 * 8.0e12, 12e12, 148),
}
"""By the name of their table."""


def dense_us(chip: Chip, m: int, n: int, k: int) -> float:
    """Estimate a dense product by the vendor's library: the best of its tiles, long reductions split."""
    tiles = ((128, 256), (128, 128), (64, 128), (64, 64))
    compute = min(_tiles_us(chip, m, n, k, tile) for tile in tiles)
    return LAUNCH_US + max(compute, _memory_us(chip, m, n, k, 1.0))


def sparse_us(table: str, m: int, pattern: BlockPattern, config: KernelConfig) -> float:
    """Estimate the product X Wᵀ, scaled so that a full one costs at least ``TRITON_SHARE`` times the dense one.

    Args:
        table: whose chip it is, a key of ``CHIPS``.
        pattern: of W, on the CPU.
        config: of a launch that leaves outputs whole; where splitting them is cheaper they are split.
    """
    chip, (n, k) = CHIPS[table], pattern.shape
    full = TRITON_SHARE * dense_us(chip, m, n, k) - LAUNCH_US
    scale = max(1.0, full / _full_us(table, m, pattern.shape, pattern.block, config))
    compute = scale * _work_list_us(table, m, pattern, config)
    return LAUNCH_US + max(compute, _memory_us(chip, m, n, k, pattern.density))


def modelled_entries(table: str) -> list[Entry]:
    """Model every entry of a table, each with the fastest of its candidates."""
    return [
        _entry(table, shape, block, m, density)
        for shape in SHAPES
        for block in BLOCKS
        for m in ROWS
        for density in DENSITIES
    ]


def write_modelled_tables() -> None:
    """Write the shipped tables; run once, and again when the model or the rule of thumb changes."""
    for table, chip in CHIPS.items():
        origin = {"source": "modelled, not measured (kernels/cost_model.py)", "chip": chip.name}
        write_table(TABLES / f"{table}.json", table, modelled_entries(table), origin)


def candidates(table: str, block: tuple[int, int], m: int) -> Iterator[KernelConfig]:
    """Yield the rule of thumb's configuration and, where there are many rows, its twin of fewer or more a program."""
    config = rule_of_thumb(table, block, m)
    yield config
    if config.kernel != "small":
        rows = 64 if config.block_m == 128 else 128
        yield replace(config, block_m=rows, warps=warps_for(rows, block))


def _entry(table: str, shape: tuple[int, int], block: tuple[int, int], m: int, density: float) -> Entry:
    pattern, (n, k) = _uniform_pattern(shape, block, density), shape
    times = {config: sparse_us(table, m, pattern, config) for config in candidates(table, block, m)}
    best = min(times, key=times.__getitem__)
    dense = round(dense_us(CHIPS[table], m, n, k), 1)
    return Entry(n, k, block, m, density, best, round(times[best], 1), dense, measured=False)


@lru_cache
def _uniform_pattern(shape: tuple[int, int], block: tuple[int, int], density: float) -> BlockPattern:
    return pattern_of(random_mask(shape, block, 1 - density), block)


@lru_cache
def _full_us(table: str, m: int, shape: tuple[int, int], block: tuple[int, int], config: KernelConfig) -> float:
    return _work_list_us(table, m, _uniform_pattern(shape, block, 1.0), config)


def _work_list_us(table: str, m: int, pattern: BlockPattern, config: KernelConfig) -> float:
    """Time the busiest multiprocessor's share of the steps, cut as a launch would cut them."""
    chip, memory = CHIPS[table], SHARED_BYTES[arch_of(table)]
    work = partition.work_of(m, pattern, pattern.forward, ITEMSIZE)
    config, cut = partition.cheapest(work, config, chip.multiprocessors, memory)
    slots = partition.slots_of(work, config, chip.multiprocessors, memory, cut.splits_outputs)
    tile, row_tiles = partition.tile_of(work, config), work.row_tiles(config.block_m)
    steps = partition.makespan(
        partition.part_steps(pattern.forward, work.outputs, cut), row_tiles, cut.group, slots.count
    )
    waves = -(-row_tiles * cut.parts // slots.count)
    l2 = chip.l2 / chip.multiprocessors / 1e6
    step_us = max(2 * tile.rows * tile.out * tile.red / _tile_rate(chip, tile.rows * tile.out), tile.step_bytes / l2)
    pieces = waves * slots.resident * tile.cut_bytes / l2 + PIECES_US if cut.splits_outputs else 0.0
    return (slots.resident * steps + waves * partition.start_steps(slots)) * step_us + pieces


def _memory_us(chip: Chip, m: int, n: int, k: int, density: float) -> float:
    """Time the transfer of X and Y once, and of the stored weight once."""
    return ITEMSIZE * (m * k + m * n + n * k * density) / (chip.bandwidth * BANDWIDTH_SHARE) * 1e6


def _tile_rate(chip: Chip, area: int) -> float:
    """Estimate the operations a microsecond of one multiprocessor on a tile of this many elements."""
    share = 0.93 if area >= 32768 else 0.82 if area >= 16384 else 0.62
    return share * chip.flops / chip.multiprocessors / 1e6


def _tiles_us(chip: Chip, m: int, n: int, k: int, tile: tuple[int, int]) -> float:
    """Time waves of dense tiles; with less than a wave, long reductions are split among the idle multiprocessors."""
    height, width = tile
    tiles, extra = math.ceil(m / height) * math.ceil(n / width), 0.0
    if tiles < chip.multiprocessors and k >= 1536:
        split = max(1, min(chip.multiprocessors // tiles, k // 768))
        k, extra = k // split, PIECES_US
    # The library evens out a broken last wave, so only the first wave is charged whole.
    waves = 1.0 if tiles <= chip.multiprocessors else tiles / chip.multiprocessors + 0.35
    return waves * (2 * height * width * k / _tile_rate(chip, height * width) + TILE_US) + extra


if __name__ == "__main__":
    write_modelled_tables()

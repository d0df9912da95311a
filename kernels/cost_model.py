"""What a product should cost: a roofline with a simple model of tiles, for tables that nobody has measured yet.

Every time from here is **modelled, not measured**. The README derives the formula; in short::

    time = launch + max(steps on the busiest multiprocessor * step + tiles there * fixed, bytes / bandwidth)

The chips' ceilings are an H200's measured ones (bf16 product of 8192 x 8192 x 8192, device copy) and, for the other
two, 80 % of the published peaks. The share of a ceiling that a kernel reaches is an assumption, calibrated for dense
products on published cuBLAS figures only; for sparse ones it is charged so that at 0 % sparsity it costs at least
1.15 times the dense product.

Legend: M rows, N out features, K in features, times in microseconds.
"""

import math
from dataclasses import dataclass

from vlcompress.kernels.configs import ARCHS, Entry, rule_of_thumb

LAUNCH_US = 2.2
TILE_US = 0.7  # filling the pipeline and storing one tile, not hidden by another program
SPLIT_US = 1.2  # adding up the pieces of a split reduction
BANDWIDTH_SHARE = 0.85
TRITON_SHARE = 1.15  # time of a full block-sparse product over cuBLAS: published gaps of Triton on Hopper, 1.04 to 1.21

SHAPES = ((768, 768), (3072, 768), (768, 3072), (2304, 768))
BLOCKS = ((32, 32), (64, 64), (128, 64))
ROWS = (32, 640, 1152, 4096, 16384)
DENSITIES = (0.5, 0.3, 0.1)


@dataclass(frozen=True)
class Chip:
    """A GPU's ceilings: bf16 operations a second, bytes a second, streaming multiprocessors."""

    name: str
    flops: float
    bandwidth: float
    multiprocessors: int


CHIPS = {
    "sm_80": Chip("A100 80GB", 0.8 * 312e12, 0.8 * 2.04e12, 108),
    "sm_90": Chip("H200", 790e12, 4.3e12, 132),
    "sm_100": Chip("B200", 0.8 * 2250e12, 0.8 * 8.0e12, 148),
}


def dense_us(chip: Chip, m: int, n: int, k: int) -> float:
    """A dense product by the vendor's library, which picks the best of its tiles and splits long reductions."""
    tiles = ((128, 256), (128, 128), (64, 128), (64, 64))
    compute = min(_tiles_us(chip, m, n, k, tile) for tile in tiles)
    return LAUNCH_US + max(compute, _memory_us(chip, m, n, k, 1.0))


def sparse_us(chip: Chip, m: int, n: int, k: int, density: float, block: tuple[int, int]) -> float:
    """The block-sparse product, scaled so that a full one costs at least ``TRITON_SHARE`` times the dense one."""
    full = TRITON_SHARE * dense_us(chip, m, n, k) - LAUNCH_US
    scale = max(1.0, full / _stream_us(chip, m, n, k, 1.0, block))
    compute = scale * _stream_us(chip, m, n, k, density, block)
    return LAUNCH_US + max(compute, _memory_us(chip, m, n, k, density))


def break_even(chip: Chip, m: int, n: int, k: int, block: tuple[int, int]) -> float | None:
    """The least sparsity, in steps of 5 %, from which the model has the sparse product faster; None if never."""
    dense = dense_us(chip, m, n, k)
    steps = (percent / 100 for percent in range(0, 100, 5))
    return next((s for s in steps if sparse_us(chip, m, n, k, 1 - s, block) < dense), None)


def modelled_entries(arch: str) -> list[Entry]:
    """A table for an arch from the model and the rule of thumb."""
    chip = CHIPS[arch]
    keys = ((n, k, block, m, d) for n, k in SHAPES for block in BLOCKS for m in ROWS for d in DENSITIES)
    return [
        Entry(
            n=n,
            k=k,
            block=block,
            m=m,
            density=density,
            config=rule_of_thumb(arch, block, m, n),
            sparse_us=round(sparse_us(chip, m, n, k, density, block), 1),
            dense_us=round(dense_us(chip, m, n, k), 1),
            measured=False,
        )
        for n, k, block, m, density in keys
    ]


def write_modelled_tables() -> None:
    """Write the shipped tables; run once, and again when the model or the rule of thumb changes."""
    from vlcompress.kernels.configs import TABLES, write_table

    for arch in ARCHS:
        origin = {"source": "modelled, not measured (kernels/cost_model.py)", "chip": CHIPS[arch].name}
        write_table(TABLES / f"{arch}.json", arch, modelled_entries(arch), origin)


def _memory_us(chip: Chip, m: int, n: int, k: int, density: float) -> float:
    """X and Y once, and the stored weight once, in bf16."""
    return 2 * (m * k + m * n + n * k * density) / (chip.bandwidth * BANDWIDTH_SHARE) * 1e6


def _tile_rate(chip: Chip, area: int) -> float:
    """Operations a microsecond of one multiprocessor: larger tiles reuse more of what they load."""
    share = 0.93 if area >= 32768 else 0.82 if area >= 16384 else 0.62
    return share * chip.flops / chip.multiprocessors / 1e6


def _tiles_us(chip: Chip, m: int, n: int, k: int, tile: tuple[int, int]) -> float:
    """Waves of dense tiles; with less than a wave, long reductions are split among the idle multiprocessors."""
    height, width = tile
    tiles, extra = math.ceil(m / height) * math.ceil(n / width), 0.0
    if tiles < chip.multiprocessors and k >= 1536:
        split = max(1, min(chip.multiprocessors // tiles, k // 768))
        k, extra = k // split, SPLIT_US
    # The library evens out a broken last wave, so only the first wave is charged whole.
    waves = 1.0 if tiles <= chip.multiprocessors else tiles / chip.multiprocessors + 0.35
    return waves * (2 * height * width * k / _tile_rate(chip, height * width) + TILE_US) + extra


def _stream_us(chip: Chip, m: int, n: int, k: int, density: float, block: tuple[int, int]) -> float:
    """The busiest multiprocessor's share of steps and tiles, cut evenly as the streams are."""
    height, width = block
    rows = 32 if m <= 64 else 64 if m < 2048 else 128
    panels = math.ceil(m / rows)
    tiles, steps = panels * (n // height), panels * (n // height) * (k // width) * density
    split = max(1, min(8, chip.multiprocessors // tiles)) if m <= 64 else 1
    step_us = 2 * rows * height * width / _tile_rate(chip, rows * height)
    waves = max(1.0, tiles * split / chip.multiprocessors)
    return waves * (steps / (tiles * split) * step_us + TILE_US) + (SPLIT_US if split > 1 else 0.0)


if __name__ == "__main__":
    write_modelled_tables()

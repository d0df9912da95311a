"""How the steps of a product are shared among the programs of a launch.

A program owns a row tile of BLOCK_M rows of X and one part of the work list. Two ways to cut the work list in parts:

- **between outputs**, at the work list's own cuts, for which outputs are dealt to parts longest first: nothing else to
  do, but the longest output bounds the time;
- **anywhere**, in parts that differ by one step at most: an output that a cut falls into is written in fp32 pieces,
  which a second launch adds in the order of the work list, so every run gives the same bits.

Splitting pays where the chip has more slots than whole outputs can fill evenly: few rows of X, or rows of W that differ
much. `cheapest` prices each in bytes that a multiprocessor moves from L2, which is what bounds these tiles. It has not
met a GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from vlcompress.kernels import configs
from vlcompress.kernels.configs import KernelConfig
from vlcompress.kernels.work_list import part_counts

START_STEPS = 2.0
"""Estimate: steps of a multiprocessor that pass while a program fills its pipeline; twice as many where it is alone."""
LAUNCH_BYTES = 80_000
"""Estimate: what a multiprocessor moves from L2 during the 1.2 µs of a second launch, at 8.7 TB/s over 132 of them."""
SHARED_TILE_BYTES = 16 << 20
"""Row tiles of X that are worked on together stay below this, a third of the L2 cache of an A100 or H100."""
LEAST_STEPS = 2
"""A part of fewer steps is all filling and no product."""
MOST_WAVES = 4


@dataclass(frozen=True)
class Work:
    """What there is to share.

    Attributes:
        m, k: rows and columns of X.
        block: (OUT, RED), sides of a stored block over the output and over the reduction.
        outputs: output blocks of a row tile.
        longest: for each count in ``part_counts(outputs)`` the steps of the longest part (work_list.WorkList).
        itemsize: bytes of an element.
    """

    m: int
    k: int
    block: tuple[int, int]
    outputs: int
    longest: tuple[int, ...]
    itemsize: int

    @property
    def entries(self) -> int:
        """Steps of a row tile."""
        return self.longest[0]

    def row_tiles(self, rows: int) -> int:
        """Number of row tiles of this many rows of X."""
        return -(-self.m // rows)


@dataclass(frozen=True)
class Tile:
    """One step of one program: X [rows, red] times a stored block [red, out]."""

    rows: int
    out: int
    red: int
    itemsize: int

    @property
    def step_bytes(self) -> int:
        """What a step brings from L2 into shared memory."""
        return (self.rows + self.out) * self.red * self.itemsize

    @property
    def cut_bytes(self) -> int:
        """What a cut in an output costs: two pieces in fp32, each written and read."""
        return 2 * 2 * 4 * self.rows * self.out


@dataclass(frozen=True)
class Slots:
    """Where programs run: multiprocessors, and the programs that each of them holds (configs.programs_per_sm)."""

    multiprocessors: int
    resident: int

    @property
    def count(self) -> int:
        """Programs that run at a time."""
        return self.multiprocessors * self.resident


@dataclass(frozen=True)
class Partition:
    """How a launch is cut.

    Attributes:
        parts: programs for each row tile.
        splits_outputs: whether cuts fall anywhere, so that pieces are left to be added.
        group: row tiles whose programs run together, so that they share the longest parts first, and X in L2.
        cost: estimate of the bytes that the busiest multiprocessor moves, with what it waits for counted as bytes.
    """

    parts: int
    splits_outputs: bool
    group: int
    cost: float = 0.0


@lru_cache(maxsize=4096)
def cheapest(
    work: Work, config: KernelConfig, multiprocessors: int, shared_bytes: int
) -> tuple[KernelConfig, Partition]:
    """Choose how to share this work, and the configuration that suits it: fewer rows a program where outputs are split.

    Args:
        shared_bytes: shared memory that one program may have.
    """
    in_pieces = configs.for_pieces(config, work.block)
    options = [(each.cost, config, each) for each in _options(work, config, multiprocessors, shared_bytes, False)]
    options += [(each.cost, in_pieces, each) for each in _options(work, in_pieces, multiprocessors, shared_bytes, True)]
    _, config, best = min(options, key=lambda option: option[0])
    return config, best


def slots_of(work: Work, config: KernelConfig, multiprocessors: int, shared_bytes: int, splits_outputs: bool) -> Slots:
    """Count the programs of a configuration that run at a time."""
    resident = configs.programs_per_sm(config, work.block, work.itemsize, shared_bytes, splits_outputs)
    return Slots(multiprocessors, resident)


def tile_of(work: Work, config: KernelConfig) -> Tile:
    """Size one step of a configuration."""
    return Tile(config.block_m, *work.block, work.itemsize)


def _options(
    work: Work, config: KernelConfig, multiprocessors: int, shared_bytes: int, splits_outputs: bool
) -> Iterator[Partition]:
    """Yield one of the two ways to cut in each number of parts that may be best."""
    slots = slots_of(work, config, multiprocessors, shared_bytes, splits_outputs)
    tile, row_tiles = tile_of(work, config), work.row_tiles(config.block_m)
    groups = -(-row_tiles // max(1, SHARED_TILE_BYTES // (config.block_m * work.k * work.itemsize)))
    group = -(-row_tiles // groups)
    if splits_outputs:
        for parts in _split_counts(work.entries, row_tiles, slots.count):
            yield Partition(parts, True, group, _split_cost(work.entries, row_tiles, parts, tile, slots))
    else:
        for parts, longest in zip(part_counts(work.outputs), work.longest, strict=True):
            steps = _whole_steps(work, row_tiles, parts, longest, groups, slots.count)
            waves = -(-row_tiles * parts // slots.count)
            cost = (slots.resident * steps + waves * start_steps(slots)) * tile.step_bytes
            yield Partition(parts, False, group, cost)


def _split_counts(entries: int, row_tiles: int, slots: int) -> list[int]:
    """List the numbers of parts, each worth starting, that fill one, two, ... waves."""
    counts = {min(entries // LEAST_STEPS, waves * slots // row_tiles) for waves in range(1, MOST_WAVES + 1)}
    return [count for count in sorted(counts) if count > 1]


def _whole_steps(work: Work, row_tiles: int, parts: int, longest: int, groups: int, slots: int) -> float:
    """Estimate the steps of the busiest slot for cuts between outputs."""
    programs, mean = row_tiles * parts, work.entries / parts
    waves = -(-programs // slots)
    if parts < work.outputs:
        return float(waves * longest)
    # Parts start longest first within a group of row tiles, so the short ones fill the gaps that the long ones leave.
    gap = 0.75 * mean if groups == 1 else longest
    return max(float(longest), min(waves * mean, programs * mean / slots + gap))


def _split_cost(entries: int, row_tiles: int, parts: int, tile: Tile, slots: Slots) -> float:
    """Estimate the bytes of the busiest multiprocessor for cuts anywhere, with pieces and the launch that adds them."""
    waves, steps = -(-row_tiles * parts // slots.count), -(-entries // parts)
    products = (slots.resident * steps + start_steps(slots)) * tile.step_bytes
    return waves * (products + slots.resident * tile.cut_bytes) + LAUNCH_BYTES


def start_steps(slots: Slots) -> float:
    """Estimate the steps that a wave of programs waits for its first tiles."""
    return START_STEPS * 2 / min(2, slots.resident)

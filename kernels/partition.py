"""How the steps of a product are shared among the programs of a launch.

A program owns a panel of BLOCK_M rows of X and one part of the stream. Two ways to cut the stream in parts:

- **between outputs**, at the stream's own cuts: nothing else to do, but the longest output bounds the time;
- **anywhere**, in parts that differ by one step at most: an output that a cut falls into is written in fp32 pieces, which
  a second launch adds in the order of the stream, so every run gives the same bits.

Splitting pays where the chip has more slots than whole outputs can fill evenly: few rows of X, or rows of W that differ
much. `cheapest` prices each in bytes that a multiprocessor moves from L2, which is what bounds these tiles; `makespan` is
what the choice is judged by. Neither has met a GPU.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlcompress.kernels.streams import part_counts

START_STEPS = 2.0
"""Estimate: steps of a multiprocessor that pass while a program fills its pipeline; twice as many where it is alone."""
LAUNCH_BYTES = 80_000
"""Estimate: what a multiprocessor moves from L2 during the 1.2 µs of a second launch, at 8.7 TB/s over 132 of them."""
SHARED_PANEL_BYTES = 16 << 20
"""Panels of X that are worked on together stay below this, a third of the L2 cache of an A100 or H100."""
LEAST_STEPS = 2
"""A part of fewer steps is all filling and no product."""
MOST_WAVES = 4


@dataclass(frozen=True)
class Work:
    """What there is to share.

    Attributes:
        panels: panels of X.
        outputs: output blocks of a panel.
        entries: steps of the stream, for each panel.
        longest: for each count in ``part_counts(outputs)`` the steps of the longest part (streams.Stream).
    """

    panels: int
    outputs: int
    entries: int
    longest: tuple[int, ...]


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
class Chip:
    """Where it runs: multiprocessors, and the programs that each of them holds (configs.programs_per_sm)."""

    multiprocessors: int
    resident: int

    @property
    def slots(self) -> int:
        """Programs that run at a time."""
        return self.multiprocessors * self.resident


@dataclass(frozen=True)
class Partition:
    """How a launch is cut.

    Attributes:
        parts: programs for each panel.
        splits_outputs: whether cuts fall anywhere, so that pieces are left to be added.
        group: panels whose programs run together, so that they share the longest parts first and the panels in L2.
        cost: estimate of the bytes that the busiest multiprocessor moves, with what it waits for counted as bytes.
    """

    parts: int
    splits_outputs: bool
    group: int
    cost: float = 0.0


@lru_cache(maxsize=4096)
def cheapest(work: Work, tile: Tile, chip: Chip, panel_bytes: int, splits_outputs: bool) -> Partition | None:
    """Choose the number of parts for one of the two ways to cut; None where nothing can be split.

    Args:
        panel_bytes: bytes of one panel of X.
    """
    groups = -(-work.panels // max(1, SHARED_PANEL_BYTES // panel_bytes))
    group = -(-work.panels // groups)
    if splits_outputs:
        costs = [(_split_cost(work, tile, chip, parts), parts) for parts in _split_counts(work, chip.slots)]
    else:
        counts = zip(part_counts(work.outputs), work.longest, strict=True)
        costs = [(_whole_cost(work, tile, chip, parts, longest, groups), parts) for parts, longest in counts]
    return Partition(min(costs)[1], splits_outputs, group, min(costs)[0]) if costs else None


def makespan(parts: Sequence[int], panels: int, group: int, slots: int) -> int:
    """Return the steps of the busiest slot when each program goes to the slot that is free first.

    Args:
        parts: steps of each part, in the order in which programs start.
    """
    load = [0] * slots
    for start in range(0, panels, group):
        for steps in parts:
            for _ in range(min(group, panels - start)):
                heapq.heapreplace(load, load[0] + steps)
    return max(load)


def even_cuts(entries: int, parts: int) -> list[int]:
    """Return the positions [parts + 1] of cuts anywhere, as the kernels compute them."""
    return [entries * part // parts for part in range(parts + 1)]


def lengths(cuts: Sequence[int]) -> list[int]:
    """Return the steps of each part between consecutive cuts."""
    return [end - begin for begin, end in itertools.pairwise(cuts)]


def _split_counts(work: Work, slots: int) -> Iterator[int]:
    """Yield the counts that fill one, two, ... waves, of parts that are worth starting."""
    most = work.entries // LEAST_STEPS
    counts = {min(most, waves * slots // work.panels) for waves in range(1, MOST_WAVES + 1)}
    return (count for count in sorted(counts) if count > 1)


def _whole_cost(work: Work, tile: Tile, chip: Chip, parts: int, longest: int, groups: int) -> float:
    programs, mean = work.panels * parts, work.entries / parts
    waves = -(-programs // chip.slots)
    steps = float(waves * longest)
    if parts == work.outputs:
        # Parts start longest first within a group of panels, so the short ones fill the gaps that the long ones leave.
        gap = 0.75 * mean if groups == 1 else longest
        steps = max(longest, min(waves * mean, programs * mean / chip.slots + gap))
    return (chip.resident * steps + waves * _start(chip)) * tile.step_bytes


def _split_cost(work: Work, tile: Tile, chip: Chip, parts: int) -> float:
    """The same with the traffic of the pieces and the launch that adds them."""
    waves = -(-work.panels * parts // chip.slots)
    steps = -(-work.entries // parts)
    each = (chip.resident * steps + _start(chip)) * tile.step_bytes + chip.resident * tile.cut_bytes
    return waves * each + LAUNCH_BYTES


def _start(chip: Chip) -> float:
    return START_STEPS * 2 / min(2, chip.resident)

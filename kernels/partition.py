"""How the steps of a product are shared among the programs of a launch.

A program owns a panel of BLOCK_M rows of X and one part of the stream. Two ways to cut the stream in parts:

- **between outputs**, at the stream's own cuts: nothing else to do, but the longest output bounds the time;
- **anywhere**, in parts that differ by one step at most: an output that a cut falls into is written in fp32 pieces, which
  a second launch adds in the order of the stream, so every run gives the same bits.

Splitting pays where the chip has more slots than whole outputs can fill evenly: few rows of X, or rows of W that differ
much. `partition` weighs the two in steps; `makespan` is what the choice is judged by. Neither has met a GPU.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlcompress.kernels.streams import part_counts

START_STEPS = 1.0
"""Estimate: steps in which a program fills its pipeline and multiplies nothing."""
LAUNCH_BYTES = 40_000
"""Estimate: what a slot moves from L2 during the 1.2 µs of a second launch, at 8.7 TB/s over 264 slots."""
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
class Partition:
    """How a launch is cut.

    Attributes:
        parts: programs for each panel.
        splits_outputs: whether cuts fall anywhere, so that pieces are left to be added.
        group: panels whose programs run together, so that they share the longest parts first and the panels in L2.
    """

    parts: int
    splits_outputs: bool
    group: int


@lru_cache(maxsize=4096)
def partition(work: Work, tile: Tile, slots: int, panel_bytes: int) -> Partition:
    """Choose the cheapest way to share this work.

    Args:
        slots: programs that the chip runs at a time.
        panel_bytes: bytes of one panel of X.
    """
    groups = -(-work.panels // max(1, SHARED_PANEL_BYTES // panel_bytes))
    group = -(-work.panels // groups)
    counts = zip(part_counts(work.outputs), work.longest, strict=True)
    choices = [(_whole_steps(work, slots, parts, longest, groups), parts, False) for parts, longest in counts]
    choices += [(_split_steps(work, tile, slots, parts), parts, True) for parts in _split_counts(work, slots)]
    _, parts, splits = min(choices)
    return Partition(parts, splits, group)


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


def _whole_steps(work: Work, slots: int, parts: int, longest: int, groups: int) -> float:
    """Steps of the busiest slot for cuts between outputs, with each program's start."""
    programs, mean = work.panels * parts, work.entries / parts
    waves = -(-programs // slots)
    steps = float(waves * longest)
    if parts == work.outputs:
        # Parts start longest first within a group of panels, so the short ones fill the gaps that the long ones leave.
        gap = 0.75 * mean if groups == 1 else longest
        steps = max(longest, min(waves * mean, programs * mean / slots + gap))
    return steps + START_STEPS * waves


def _split_steps(work: Work, tile: Tile, slots: int, parts: int) -> float:
    """The same for cuts anywhere, with the pieces' traffic and the launch that adds them."""
    waves = -(-work.panels * parts // slots)
    each = -(-work.entries // parts) + START_STEPS + tile.cut_bytes / tile.step_bytes
    return waves * each + LAUNCH_BYTES / tile.step_bytes

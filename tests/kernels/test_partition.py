"""How work is shared: cuts that cover the work list, a makespan by hand, and the balance that the README claims."""

import pytest

from tests.kernels.simulated import even_cuts, lengths, makespan, part_steps, pattern_of, work_of
from vlcompress.kernels import partition
from vlcompress.kernels.configs import SHARED_BYTES, KernelConfig, rule_of_thumb
from vlcompress.kernels.formats import BlockPattern
from vlcompress.kernels.partition import Partition
from vlcompress.kernels.synthetic import random_mask

MULTIPROCESSORS, MEMORY = 132, SHARED_BYTES["sm_90"]


def shared(pattern: BlockPattern, m: int) -> tuple[partition.Work, KernelConfig, Partition]:
    work = work_of(m, pattern, itemsize=2)
    return work, *partition.cheapest(work, rule_of_thumb("sm_90", pattern.block, m), MULTIPROCESSORS, MEMORY)


def imbalance(pattern: BlockPattern, m: int) -> float:
    """Steps of the busiest slot over those of an even share among all slots."""
    work, config, cut = shared(pattern, m)
    slots = partition.slots_of(work, config, MULTIPROCESSORS, MEMORY, cut.splits_outputs).count
    row_tiles = work.row_tiles(config.block_m)
    parts = part_steps(pattern.forward, work.outputs, cut)
    assert sum(parts) == work.entries
    return makespan(parts, row_tiles, cut.group, slots) * slots / (work.entries * row_tiles)


def test_makespan_by_hand() -> None:
    """Two row tiles of parts 5, 3 and 1 on two slots: 5 5 | 3 3 | 1 1 together, 5 3 | 1 5 | 3 1 one after the other."""
    assert makespan([5, 3, 1], row_tiles=2, group=2, slots=2) == 9
    assert makespan([5, 3, 1], row_tiles=2, group=1, slots=2) == 9
    assert makespan([4, 2, 2], row_tiles=1, group=1, slots=2) == 4
    assert makespan([2, 2, 4], row_tiles=1, group=1, slots=2) == 6, "the longest part last leaves a slot idle"


@pytest.mark.parametrize(("entries", "parts"), [(7, 3), (10, 10), (48, 5)])
def test_even_cuts_differ_by_one_step(entries: int, parts: int) -> None:
    cuts = even_cuts(entries, parts)
    assert (cuts[0], cuts[-1]) == (0, entries)
    assert set(lengths(cuts)) <= {entries // parts, -(-entries // parts)}


@pytest.mark.parametrize(
    ("shape", "m", "skew", "density", "most"),
    [
        ((768, 3072), 1152, 0.0, 0.5, 1.15),
        ((768, 3072), 1152, 1.0, 0.5, 1.15),
        ((768, 3072), 1152, 1.0, 0.3, 1.15),
        ((768, 3072), 1152, 1.0, 0.1, 1.3),
        ((3072, 768), 1152, 0.0, 0.5, 1.15),
        ((3072, 768), 16384, 1.0, 0.3, 1.15),
        ((768, 3072), 16384, 1.0, 0.3, 1.3),
    ],
)
def test_work_is_balanced(shape: tuple[int, int], m: int, skew: float, density: float, most: float) -> None:
    block = (64, 64)
    assert imbalance(pattern_of(random_mask(shape, block, 1 - density, skew=skew), block), m) <= most


def test_splitting_is_not_chosen_where_pieces_cost_more_than_they_save() -> None:
    """With four steps a slot, two pieces a part and a second launch cost more than waiting for the longest output."""
    _, config, cut = shared(pattern_of(random_mask((768, 3072), (64, 64), 0.9), (64, 64)), 1152)
    assert not cut.splits_outputs
    assert config == rule_of_thumb("sm_90", (64, 64), 1152)


def test_few_blocks_are_not_split_in_parts_without_work() -> None:
    """Some four blocks an output at M = 32: a part has two steps at least, or the outputs stay whole."""
    work, _, cut = shared(pattern_of(random_mask((768, 3072), (64, 64), 0.9), (64, 64)), 32)
    assert cut.parts <= work.entries // 2

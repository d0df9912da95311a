"""What tests of the work lists judge them by: the pattern of a mask, and a launch simulated step by step."""

import heapq
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from vlcompress.kernels.formats import BlockPattern
from vlcompress.kernels.partition import Partition, Work
from vlcompress.kernels.work_list import WorkList, cut_offset


def pattern_of(mask_nk: Tensor, block: tuple[int, int]) -> BlockPattern:
    """Store the pattern of a mask [N/R, K/C] of blocks R x C."""
    counts = mask_nk.sum(1)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    shape = (mask_nk.shape[0] * block[0], mask_nk.shape[1] * block[1])
    return BlockPattern(shape, block, crow, mask_nk.nonzero()[:, 1].int())


def work_of(m: int, pattern: BlockPattern, itemsize: int) -> Work:
    """Describe the forward product of M rows of X and a pattern."""
    (height, width), (n, k) = pattern.block, pattern.shape
    return Work(m, k, (height, width), n // height, pattern.forward.longest, itemsize)


def part_of(work_list: WorkList, outputs: int, parts: int) -> Tensor:
    """View the ``parts + 1`` cuts between which the parts run."""
    start = cut_offset(outputs, parts)
    return work_list.cuts[start : start + parts + 1]


def part_steps(work_list: WorkList, outputs: int, cut: Partition) -> list[int]:
    """Count the steps of each part, in the order in which a row tile's programs start."""
    if cut.splits_outputs:
        return lengths(even_cuts(work_list.entries, cut.parts))
    return lengths(part_of(work_list, outputs, cut.parts).tolist())


def makespan(parts: Sequence[int], row_tiles: int, group: int, slots: int) -> int:
    """Count the steps of the busiest slot when each program goes to the slot that is free first.

    Args:
        parts: steps of each part, in the order in which programs start.
    """
    load = [0] * slots
    for start in range(0, row_tiles, group):
        for steps in parts:
            for _ in range(min(group, row_tiles - start)):
                heapq.heapreplace(load, load[0] + steps)
    return max(load)


def even_cuts(entries: int, parts: int) -> list[int]:
    """Cut anywhere, as the kernels do: positions [parts + 1]."""
    return [entries * part // parts for part in range(parts + 1)]


def lengths(cuts: Sequence[int]) -> list[int]:
    """Count the steps between consecutive cuts."""
    return [end - begin for begin, end in itertools.pairwise(cuts)]

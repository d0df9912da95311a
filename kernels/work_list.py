"""Work lists: the order in which a kernel visits the stored blocks of a weight, derived from its BSR indices.

Legend: N out features, K in features, R x C block (R over N, C over K), b stored block, nnz number of stored blocks,
E entries.

A kernel does not read rows: it follows a **work list**, one int64 entry a step, so that its pipeline never drains
between two output tiles. An entry packs what the step needs::

    bits 0..14 input block | bit 15 last step of this output | bits 16..30 output block | bits 32..62 slot in values

The forward list visits block rows, the transposed list block columns of the same values (dX = dY W), so the values are
stored once. An output block without any stored block still owns one entry, whose slot is nnz: one past the end, which
the kernels read as zeros. The outputs with most steps come first, so that programs that start in this order finish at
about the same time. A list can be cut between outputs, where ``cuts`` says, or anywhere (partition.py); where parts of
whole outputs come out more even in another order, it holds that order as well.
"""

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vlcompress.kernels.errors import KernelInputError

BLOCK_SIDES = (16, 32, 64, 128)
"""Sides of the blocks that a Triton kernel can multiply."""

MAX_BLOCKS_PER_SIDE = 1 << 15

LEAST_GAIN = 0.03
"""By how much another order must shorten the longest part to be kept: each costs eight bytes a stored block."""

MOST_OUTPUTS = 64
"""With more outputs each is so small a share of a part that neighbours serve; small blocks feel those bytes most."""

_LAST_BIT = 15
_OUTPUT_SHIFT = 16
_SLOT_SHIFT = 32


@dataclass(frozen=True)
class WorkList:
    """The order in which a kernel visits the stored blocks, and where that order may be cut.

    Attributes:
        steps: int64 [orders * E + 1], the packed entries, longest outputs first, then the same entries in other orders
            of their outputs, then one readable entry of padding (the kernels read one step ahead).
        cuts: int32, for each count in ``part_counts(outputs)`` in turn, ``count + 1`` positions in the steps.
        longest: for each of these counts the steps of the longest part, known to the host; the first is E, the last the
            longest output.
    """

    steps: Tensor
    cuts: Tensor
    longest: tuple[int, ...]

    @property
    def entries(self) -> int:
        """Number of steps E."""
        return self.longest[0]

    def to(self, device: torch.device | str) -> "WorkList":
        """Move the list to another device."""
        return WorkList(self.steps.to(device), self.cuts.to(device), self.longest)


def no_work_list_because(shape: tuple[int, int], block: tuple[int, int]) -> str | None:
    """Say why the Triton kernels cannot multiply a weight [N, K] in such blocks; None if they can."""
    if any(side not in BLOCK_SIDES for side in block):
        return f"the Triton kernels take block sides of {', '.join(map(str, BLOCK_SIDES))}, not {block[0]}x{block[1]}"
    for name, size, side in zip(("N", "K"), shape, block, strict=True):
        if size // side >= MAX_BLOCKS_PER_SIDE:
            return f"{name}={size} has more than {MAX_BLOCKS_PER_SIDE - 1} blocks of {side}: use larger ones"
    return None


def forward_work_list(row: Tensor, col: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> WorkList:
    """Derive the work list by block rows (Y = X Wᵀ).

    Args:
        row, col: [nnz], block row and block column of each stored block, by row and then by column.
        shape: (N, K).
        block: (R, C).

    Raises:
        KernelInputError: blocks that no kernel can multiply.
    """
    _check(shape, block)
    return _work_list(row, col, torch.arange(col.numel(), device=col.device), shape[0] // block[0])


def transposed_work_list(row: Tensor, col: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> WorkList:
    """Derive the work list by block columns (dX = dY W); arguments as for `forward_work_list`."""
    _check(shape, block)
    by_column = torch.argsort(col, stable=True)
    return _work_list(col[by_column], row[by_column], by_column, shape[1] // block[1])


@lru_cache
def part_counts(outputs: int) -> tuple[int, ...]:
    """List the numbers of parts that a work list can be cut in: 1 to 8, 10, 12, 14, 16, ..., its number of outputs.

    Steps of a quarter or less leave few streaming multiprocessors idle; the last count gives each output its own part.
    """
    counts = sorted({step << power for power in range(outputs.bit_length()) for step in (1, 2, 3, 5, 7)} | {outputs})
    return tuple(count for count in counts if count <= outputs)


@lru_cache
def cut_offset(outputs: int, parts: int) -> int:
    """Find where the positions for this number of parts start in ``WorkList.cuts``."""
    return sum(count + 1 for count in part_counts(outputs) if count < parts)


def _check(shape: tuple[int, int], block: tuple[int, int]) -> None:
    why = no_work_list_because(shape, block)
    if why is not None:
        raise KernelInputError(f"{why}; backend 'grouped' takes any block")


def _work_list(output: Tensor, source: Tensor, slot: Tensor, outputs: int) -> WorkList:
    """Pack a work list from blocks that are sorted by output; outputs without a block get one that reads as zeros."""
    nnz = output.numel()
    counts = torch.bincount(output, minlength=outputs)
    empty = (counts == 0).nonzero().flatten()
    output = torch.cat([output.long(), empty])
    source = torch.cat([source.long(), torch.zeros_like(empty)])
    slot = torch.cat([slot, torch.full_like(empty, nnz)])
    lengths = counts.clamp(min=1)
    longest_first = torch.argsort(lengths, descending=True, stable=True)
    rank = torch.argsort(longest_first)
    order = torch.argsort(rank[output], stable=True)
    output = output[order]
    last = torch.ones_like(output)
    last[:-1] = output[1:] != output[:-1]
    steps = source[order] | last << _LAST_BIT | output << _OUTPUT_SHIFT | slot[order] << _SLOT_SHIFT
    return _with_cuts(steps, lengths[longest_first].tolist())


def _with_cuts(steps: Tensor, lengths: Sequence[int]) -> WorkList:
    """Cut a work list for each part count, in an order of its own where that makes the longest part shorter.

    Args:
        lengths: steps of each output, in the order of the steps: longest first.
    """
    ends = list(itertools.accumulate(lengths, initial=0))
    orders, cuts, longest = [steps], [], []
    for parts in part_counts(len(lengths)):
        level = ends if parts == len(lengths) else _nearest(ends, parts)
        bins = _bins(lengths, parts)
        totals = [sum(lengths[rank] for rank in ranks) for ranks in bins]
        if len(lengths) <= MOST_OUTPUTS and totals[0] < (1 - LEAST_GAIN) * _longest(level):
            level = list(itertools.accumulate(totals, initial=len(orders) * ends[-1]))
            orders.append(torch.cat([steps[ends[rank] : ends[rank + 1]] for ranks in bins for rank in ranks]))
        cuts += level
        longest.append(_longest(level))
    return WorkList(torch.cat([*orders, steps.new_zeros(1)]), torch.tensor(cuts, dtype=torch.int32), tuple(longest))


def _nearest(ends: Sequence[int], parts: int) -> list[int]:
    """Cut at the ends of outputs that are nearest to equal shares of the steps."""
    cuts = []
    for part in range(parts + 1):
        share = ends[-1] * part / parts
        above = bisect_left(ends, share)
        below = max(above - 1, 0)
        cuts.append(ends[below] if share - ends[below] < ends[above] - share else ends[above])
    return cuts


def _bins(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Deal outputs, longest first, each to the part with the fewest steps; return their ranks, longest part first."""
    load: list[tuple[int, int, list[int]]] = [(0, part, []) for part in range(parts)]
    for rank, length in enumerate(lengths):
        total, part, ranks = load[0]
        heapq.heapreplace(load, (total + length, part, [*ranks, rank]))
    return [ranks for _, _, ranks in sorted(load, key=lambda part: (-part[0], part[1]))]


def _longest(cuts: Sequence[int]) -> int:
    return max(end - begin for begin, end in itertools.pairwise(cuts))

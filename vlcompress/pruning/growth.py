"""Gradual block growth: the first rounds prune small blocks, the later ones larger ones, the last ones the recipe's.

A small block is pruned with less regret than a large one, and what earlier rounds have thinned out is then easier to
give up as a whole. Each size nests in the next, so that a large block is made of whole small ones.

What is gone does not stay gone where a size changes. A large block has to be kept or pruned as a whole, and the next
round decides it anew, over all blocks of the new size: its score is taken over all its weights, those that are gone
counting as zero. If it stays, what was gone in it comes back (rewinding gives it its first value). What holds is:
the sparsity after each round is the schedule's, so it never falls; a block that is gone as a whole never comes back;
and within the rounds of one size what is gone stays gone.
"""

from collections.abc import Sequence
from itertools import pairwise

from vlcompress.errors import VlcompressError
from vlcompress.pruning.pattern import Block, Pattern, Unstructured
from vlcompress.pruning.patterns import of_weights


def grown(growth: str, pattern: Pattern, rounds: int) -> tuple[Pattern, ...]:
    """Return the pattern of every round, fine to coarse, each size for an equal share of the rounds.

    Args:
        growth: "" for none, or the sizes before the recipe's as RxC[,RxC], for example "16x1,64x16".
        pattern: the recipe's, which the last rounds have; without blocks it has nothing to grow, and stays.
        rounds: how many rounds there are.

    Raises:
        VlcompressError: sizes that cannot be read or do not nest, more sizes than rounds, or a mixture.
    """
    if not growth or isinstance(pattern, Unstructured):
        return (pattern,) * rounds
    if not isinstance(pattern, Block):
        raise VlcompressError(
            f"pruning.growth '{growth}' with pattern '{pattern}': only blocks grow; leave growth empty, or choose a "
            "pattern block:RxC"
        )
    sizes = _sizes(growth, pattern)
    if len(sizes) > rounds:
        raise VlcompressError(
            f"pruning.growth '{growth}' to '{pattern}' has {len(sizes)} sizes and the schedule {rounds} round(s): give "
            "fewer sizes, or a schedule of more rounds"
        )
    return tuple(sizes[number * len(sizes) // rounds] for number in range(rounds))


def _sizes(growth: str, last: Block) -> Sequence[Block]:
    sizes = [of_weights(f"block:{size}", f"{growth} of pruning.growth") for size in growth.split(",")]
    blocks = [size for size in sizes if isinstance(size, Block)]
    blocks += [] if blocks[-1:] == [last] else [last]
    for small, large in pairwise(blocks):
        if large.rows % small.rows or large.cols % small.cols or small == large:
            raise VlcompressError(
                f"pruning.growth '{growth}' to '{last}': {large} is not made of whole {small}; give sizes from fine to "
                "coarse, each dividing the next, for example 16x1,16x16"
            )
    return blocks

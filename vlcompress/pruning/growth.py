"""Progressive block size: the first rounds prune small blocks, the later ones larger ones, the last ones the recipe's.

A small block is pruned with less regret than a large one, and what earlier rounds have thinned out is then easier to
give up as a whole. Each size nests in the next, so that a large block is made of whole small ones.

What is gone does not stay gone where a size changes. A large block has to be kept or pruned as a whole, and the next
round decides it anew, over all blocks of the new size: its score is taken over all its weights, those that are gone
counting as zero. If it stays, what was gone in it comes back (rewinding gives it its first value). What holds is:
the sparsity after each round is the schedule's, so it never falls; a block that is gone as a whole never comes back;
and within the rounds of one size what is gone stays gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vlcompress.errors import VlcompressError
from vlcompress.pruning.pattern import Block, Pattern, Unstructured
from vlcompress.pruning.patterns import of_weights


@dataclass(frozen=True)
class Growth:
    """Block sizes that the rounds before the recipe's own size have, fine to coarse; none leaves every round at that.

    `str` gives what `parse_growth` reads.
    """

    sizes: tuple[Block, ...] = ()

    def __str__(self) -> str:
        return ",".join(str(size).removeprefix("block:") for size in self.sizes)

    def __bool__(self) -> bool:
        return bool(self.sizes)

    def patterns(self, last: Pattern, rounds: int) -> tuple[Pattern, ...]:
        """Spread the sizes over the rounds, fine to coarse, each for an equal share of them.

        Args:
            last: the recipe's pattern, which the last rounds have; unstructured has nothing to grow, and stays.
            rounds: how many rounds there are.

        Raises:
            VlcompressError: sizes that do not nest, more sizes than rounds, or a pattern that is no block.
        """
        if not self or isinstance(last, Unstructured):
            return (last,) * rounds
        if not isinstance(last, Block):
            raise VlcompressError(
                f"pruning.growth '{self}' with pattern '{last}': only blocks grow; leave growth empty, or choose a "
                "pattern block:RxC"
            )
        sizes = self._up_to(last)
        if len(sizes) > rounds:
            raise VlcompressError(
                f"pruning.growth '{self}' to '{last}' has {len(sizes)} sizes and the schedule {rounds} round(s): give "
                "fewer sizes, or a schedule of more rounds"
            )
        return tuple(sizes[number * len(sizes) // rounds] for number in range(rounds))

    def _up_to(self, last: Block) -> Sequence[Block]:
        sizes = self.sizes if self.sizes[-1] == last else (*self.sizes, last)
        for small, large in pairwise(sizes):
            if large.rows % small.rows or large.cols % small.cols or small == large:
                raise VlcompressError(
                    f"pruning.growth '{self}' to '{last}': {large} is not made of whole {small}; give sizes from fine "
                    "to coarse, each dividing the next, for example 16x1,16x16"
                )
        return sizes


def parse_growth(text: str) -> Growth:
    """Read block sizes RxC[,RxC], for example "16x1,64x16"; "" grows nothing.

    Raises:
        VlcompressError: a size that cannot be read.
    """
    sizes = [of_weights(f"block:{size}", f"{text} of pruning.growth") for size in text.split(",") if text]
    return Growth(tuple(size for size in sizes if isinstance(size, Block)))

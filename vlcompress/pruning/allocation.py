"""Allocations: how a sparsity is shared out between the weights. Exactly k units go, ties broken by index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from vlcompress.errors import unknown
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.pattern import Pattern
from vlcompress.pruning.select import Source, kept_units, smallest

Groups = list[list[Source]]


class Allocation(Protocol):
    """Which weights compete with which."""

    def groups(self, sources: list[Source]) -> Groups:
        """Split the sources into groups that each reach the sparsity by themselves."""


@dataclass(frozen=True)
class Global:
    """All weights compete ("globally throughout the network", Gan et al. 2022)."""

    def groups(self, sources: list[Source]) -> Groups:
        """Give one group."""
        return [sources]


@dataclass(frozen=True)
class Uniform:
    """Every weight matrix reaches the sparsity by itself."""

    def groups(self, sources: list[Source]) -> Groups:
        """Give one group a weight."""
        return [[source] for source in sources]


def parse_allocation(text: str) -> Allocation:
    """Read ``global`` or ``uniform``."""
    if text == "global":
        return Global()
    if text == "uniform":
        return Uniform()
    raise unknown("allocation", text, ("global", "uniform"))


def prune(
    weights: Mapping[str, Tensor],
    masks: Masks,
    sparsity: float,
    *,
    pattern: Pattern,
    criterion: Criterion,
    allocation: Allocation,
) -> Masks:
    """Prune further until a fraction `sparsity` of all units is gone; what is gone stays gone.

    Args:
        weights: the trained weights [out, in] of every name in `masks`.
        masks: what the rounds before have kept.
        sparsity: fraction of the original units pruned afterwards, in [0, 1]; the number is rounded to the nearest
            unit (Python's rounding), and is exact: ties at the threshold go by index, first weight first.

    Raises:
        VlcompressError: a weight that the pattern does not divide, or one that is not finite.
    """
    sources = [_source(name, weights[name], mask, pattern, criterion) for name, mask in masks.items()]
    kept: dict[str, Tensor] = {}
    for group in allocation.groups(sources):
        count = round(sparsity * sum(source.units for source in group))
        kept |= kept_units(group, smallest(group, count))
    return Masks({name: pattern.spread(kept[name], mask.shape) for name, mask in masks.items()})


def _source(name: str, weight: Tensor, mask: Tensor, pattern: Pattern, criterion: Criterion) -> Source:
    pattern.check(name, weight.shape)
    if pattern.unit == 1:  # scored piece by piece, so that the scores never stand in memory as a whole
        flat, alive = weight.detach().reshape(-1), mask.reshape(-1)
        return Source(name, len(flat), lambda a, b: criterion.scores(name, flat[a:b], a), lambda a, b: alive[a:b])
    units = pattern.unit_scores(criterion.scores(name, weight))
    alive_units = pattern.unit_scores(mask.float()) > 0
    return Source(name, len(units), lambda a, b: units[a:b], lambda a, b: alive_units[a:b])

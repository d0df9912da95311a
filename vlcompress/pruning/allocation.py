"""Allocations: how a sparsity is shared out between the weights. Exactly k units go, ties broken by index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from vlcompress.errors import unknown
from vlcompress.models.base import Coupling
from vlcompress.models.registry import part_of
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

    def __str__(self) -> str:
        return "global"

    def groups(self, sources: list[Source]) -> Groups:
        """Return one group."""
        return [sources]


@dataclass(frozen=True)
class Uniform:
    """Every weight matrix reaches the sparsity by itself."""

    def __str__(self) -> str:
        return "uniform"

    def groups(self, sources: list[Source]) -> Groups:
        """Return one group a weight."""
        return [[source] for source in sources]


@dataclass(frozen=True)
class Modality:
    """Weights compete within a part of the model (language, vision, cross, pooler), and each part reaches the sparsity.

    Globally, the parts of LXMERT end far apart, since their weights differ in size for reasons of their own.
    """

    def __str__(self) -> str:
        return "modality"

    def groups(self, sources: list[Source]) -> Groups:
        """Return one group for each part that is there."""
        parts: dict[str, list[Source]] = {}
        for source in sources:
            parts.setdefault(part_of(source.name), []).append(source)
        return list(parts.values())


def parse_allocation(text: str) -> Allocation:
    """Read ``global``, ``uniform`` or ``modality``."""
    made: Mapping[str, Allocation] = {str(one): one for one in (Global(), Uniform(), Modality())}
    if text not in made:
        raise unknown("allocation", text, made)
    return made[text]


def prune(
    weights: Mapping[str, Tensor],
    masks: Masks,
    sparsity: float,
    *,
    pattern: Pattern,
    criterion: Criterion,
    allocation: Allocation,
    couplings: Sequence[Coupling] = (),
) -> Masks:
    """Prune further until a fraction `sparsity` of all units is gone; what is gone stays gone.

    Args:
        weights: the trained weights [out, in] of every name in `masks`.
        masks: what the rounds before have kept.
        sparsity: fraction of the original units pruned afterwards, in [0, 1]; the number is rounded to the nearest
            unit (Python's rounding), and is exact: ties at the threshold go by index, first weight first.
        pattern: what goes together. Every kind of layer that a mixture names loses the same share, so that all of them
            reach the sparsity; the others stay as they are.
        criterion: scores the weights.
        allocation: which units compete, within a kind.
        couplings: of the model; mixtures need them.

    Raises:
        VlcompressError: a weight that the pattern does not divide, one that is not finite, or a sparsity that the
            pattern cannot reach.
    """
    pruned = dict(masks)
    for contest in pattern.contests(weights, masks, sparsity, criterion, couplings):
        pruned |= contest.spread(_kept(contest.sources, contest.share, allocation))
    return Masks(pruned)


def _kept(sources: list[Source], sparsity: float, allocation: Allocation) -> dict[str, Tensor]:
    """Return for each source the bool [units] of what stays: in each group exactly the rounded number goes."""
    kept: dict[str, Tensor] = {}
    for group in allocation.groups(sources):
        count = round(sparsity * sum(source.units for source in group))
        kept |= kept_units(group, smallest(group, count))
    return kept

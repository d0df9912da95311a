"""Allocations: how a sparsity is shared out between the weights. Exactly k units go, ties broken by index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from vlcompress.errors import unknown
from vlcompress.models.base import Coupling
from vlcompress.models.registry import part_of
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.mixture import CoupledUnits, Mixture, Units, coupled, members, share_of
from vlcompress.pruning.pattern import Pattern, share_of_weights
from vlcompress.pruning.select import Source, kept_units, ordered, smallest

Groups = list[list[Source]]


class Allocation(Protocol):
    """Which weights compete with which."""

    def groups(self, sources: list[Source]) -> Groups:
        """Split the sources into groups that each reach the sparsity by themselves."""


@dataclass(frozen=True)
class Global:
    """All weights compete ("globally throughout the network", Gan et al. 2022)."""

    def groups(self, sources: list[Source]) -> Groups:
        """Return one group."""
        return [sources]


@dataclass(frozen=True)
class Uniform:
    """Every weight matrix reaches the sparsity by itself."""

    def groups(self, sources: list[Source]) -> Groups:
        """Return one group a weight."""
        return [[source] for source in sources]


@dataclass(frozen=True)
class Modality:
    """Weights compete within a part of the model (language, vision, cross, pooler), and each part reaches the sparsity.

    Globally, the parts of LXMERT end far apart, since their weights differ in size for reasons of their own.
    """

    def groups(self, sources: list[Source]) -> Groups:
        """Return one group for each part that is there."""
        parts: dict[str, list[Source]] = {}
        for source in sources:
            parts.setdefault(part_of(source.name), []).append(source)
        return list(parts.values())


def parse_allocation(text: str) -> Allocation:
    """Read ``global``, ``uniform`` or ``modality``."""
    made: Mapping[str, Allocation] = {"global": Global(), "uniform": Uniform(), "modality": Modality()}
    if text not in made:
        raise unknown("allocation", text, made)
    return made[text]


def prune(
    weights: Mapping[str, Tensor],
    masks: Masks,
    sparsity: float,
    *,
    pattern: Pattern | Mixture,
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
    if isinstance(pattern, Mixture):
        return _prune_mixture(weights, masks, sparsity, pattern, criterion, allocation, couplings)
    return Masks(_prune_weights(weights, masks, sparsity, pattern, criterion, allocation))


def _prune_mixture(
    weights: Mapping[str, Tensor],
    masks: Masks,
    sparsity: float,
    mixture: Mixture,
    criterion: Criterion,
    allocation: Allocation,
    couplings: Sequence[Coupling],
) -> Masks:
    pruned = dict(masks)
    share = share_of(mixture, sparsity, {name: mask.numel() for name, mask in masks.items()}, couplings)
    for kind, part in mixture.parts:
        if isinstance(part, Units):
            pruned |= _prune_units(weights, masks, share, coupled(part, couplings, masks), criterion, allocation)
        else:
            of_kind = {name: masks[name] for name in members(kind, couplings, masks)}
            pruned |= _prune_weights(weights, of_kind, share, part, criterion, allocation)
    return Masks(pruned)


def _prune_units(
    weights: Mapping[str, Tensor],
    masks: Masks,
    share: float,
    units: Sequence[CoupledUnits],
    criterion: Criterion,
    allocation: Allocation,
) -> dict[str, Tensor]:
    kept = _kept([one.source(weights, masks, criterion) for one in units], share, allocation)
    return {name: mask for one in units for name, mask in one.spread(kept[one.coupling.consumer], masks)}


def _prune_weights(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    sparsity: float,
    pattern: Pattern,
    criterion: Criterion,
    allocation: Allocation,
) -> dict[str, Tensor]:
    sources = [_source(name, weights[name], mask, pattern, criterion) for name, mask in masks.items()]
    kept = _kept(sources, share_of_weights(pattern, sparsity), allocation)
    return {name: pattern.spread(kept[name], mask.shape) for name, mask in masks.items()}


def _kept(sources: list[Source], sparsity: float, allocation: Allocation) -> dict[str, Tensor]:
    """Return for each source the bool [units] of what stays: in each group exactly the rounded number goes."""
    kept: dict[str, Tensor] = {}
    for group in allocation.groups(sources):
        count = round(sparsity * sum(source.units for source in group))
        kept |= kept_units(group, smallest(group, count))
    return kept


def _source(name: str, weight: Tensor, mask: Tensor, pattern: Pattern, criterion: Criterion) -> Source:
    pattern.check(name, weight.shape)
    if pattern.unit == 1:  # scored piece by piece, so that the scores never stand in memory as a whole
        flat, alive = weight.detach().reshape(-1), mask.reshape(-1)
        scores_of = partial(_piece, criterion, name, flat)
        return Source(name, len(flat), scores_of, lambda a, b: alive[a:b], pattern.spares)
    scores = criterion.scores(name, weight)
    units = ordered(pattern.unit_means(scores)) if criterion.signed else pattern.unit_scores(scores)
    alive_units = pattern.unit_scores(mask.float()) > 0
    return Source(name, len(units), lambda a, b: units[a:b], lambda a, b: alive_units[a:b])


def _piece(criterion: Criterion, name: str, flat: Tensor, start: int, stop: int) -> Tensor:
    scores = criterion.scores(name, flat[start:stop], start)
    return ordered(scores) if criterion.signed else scores

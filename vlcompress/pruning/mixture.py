"""Patterns by kind of layer: whole attention heads, whole feed-forward neurons, or a pattern of weights for each kind.

A head or a neuron lives in several weights (see `Coupling`), so its unit spans them: rows of the producers and columns
of the consumer. Removing units that were pruned like this is what `compile` does, and costs no accuracy of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.pattern import SAME, Contest, LayerKind, Pattern, WeightPattern
from vlcompress.pruning.select import Source, ordered

COUPLED: Mapping[LayerKind, Literal["head", "neuron"]] = {"attention": "head", "ffn": "neuron"}
"""The kind of coupling that makes up each kind of layer."""


@dataclass(frozen=True)
class Units:
    """Whole heads, or whole neurons."""

    kind: Literal["head", "neuron"]

    def __str__(self) -> str:
        return self.kind

    def contests(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        share: float,
        criterion: Criterion,
        couplings: Sequence[Coupling],
    ) -> Iterator[Contest]:
        """Let the units of all couplings of this kind lose one share."""
        units = coupled(self, couplings, masks)

        def spread(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: mask for one in units for name, mask in one.spread(kept[one.coupling.consumer], masks)}

        yield Contest([one.source(weights, masks, criterion) for one in units], share, spread)


@dataclass(frozen=True)
class Mixture(Pattern):
    """A pattern for each kind of layer; kinds that are not named stay dense.

    Attributes:
        parts: kinds of layer, each once, with what is pruned in them: units, or a pattern of weights.
    """

    parts: tuple[tuple[LayerKind, Units | WeightPattern], ...]

    def __str__(self) -> str:
        if all(isinstance(part, Units) for _, part in self.parts):
            return "+".join(sorted((str(part) for _, part in self.parts), reverse=True))
        return ",".join(f"{kind}={part}" for kind, part in self.parts)

    @property
    def by_kind(self) -> Mapping[LayerKind, WeightPattern]:
        """The patterns of weights among the parts."""
        return {kind: part for kind, part in self.parts if not isinstance(part, Units)}

    @property
    def limit(self) -> float:
        """The largest share of the covered weights that can go: the least of its parts'."""
        return min((pattern.reach for pattern in self.by_kind.values()), default=1.0)

    def check(self, shapes: Mapping[str, torch.Size], couplings: Sequence[Coupling], sparsity: float) -> None:
        """Refuse patterns that do not divide, and a sparsity above what the mixture reaches."""
        self.share(sparsity, {name: shape.numel() for name, shape in shapes.items()}, couplings)
        for kind, part in self.by_kind.items():
            for name in members(kind, couplings, shapes):
                part.check_weight(name, shapes[name])

    def reach_in(self, sizes: Mapping[str, int], couplings: Sequence[Coupling]) -> float:
        """Find the largest sparsity: what is covered, less what its parts must keep."""
        return self.limit * self._covered(sizes, couplings) / sum(sizes.values())

    def _covered(self, sizes: Mapping[str, int], couplings: Sequence[Coupling]) -> int:
        return sum(sizes[name] for kind, _ in self.parts for name in members(kind, couplings, sizes))

    def share(self, sparsity: float, sizes: Mapping[str, int], couplings: Sequence[Coupling] = ()) -> float:
        """Find the share of the covered weights that must go, so that `sparsity` of all prunable weights goes.

        Raises:
            VlcompressError: that is more of them than can go, or the mixture covers nothing.
        """
        covered, total = self._covered(sizes, couplings), sum(sizes.values())
        reach = self.reach_in(sizes, couplings)
        if sparsity > reach + SAME or not covered:
            kept = "" if self.limit == 1 else f" and prunes at most {100 * self.limit:g} % of them"
            raise VlcompressError(
                f"pattern '{self}' covers {100 * covered / total:.1f} % of the prunable weights{kept}: sparsity "
                f"{sparsity:g} is out of its reach; give sparsity {reach:.6f} or less, or a pattern for the other "
                "layers as well (neuron+head)"
            )
        return self.limit if abs(sparsity - reach) <= SAME else sparsity * total / covered

    def contests(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        sparsity: float,
        criterion: Criterion,
        couplings: Sequence[Coupling],
    ) -> Iterator[Contest]:
        """Let each kind of layer lose the same share of what it has, by itself."""
        share = self.share(sparsity, {name: mask.numel() for name, mask in masks.items()}, couplings)
        for kind, part in self.parts:
            of_kind = {name: masks[name] for name in members(kind, couplings, masks)}
            yield from part.contests(weights, of_kind, share, criterion, couplings)


def members(kind: LayerKind, couplings: Sequence[Coupling], names: Mapping[str, object]) -> list[str]:
    """List the weights of a kind of layer, in the order of `names`, leaving out those that are not in it."""
    found = {
        name
        for coupling in couplings
        if coupling.kind == COUPLED[kind]
        for name in (*coupling.producers, coupling.consumer)
    }
    return [name for name in names if name in found]


@dataclass(frozen=True)
class CoupledUnits:
    """The units of one coupling, for scoring and masking.

    Attributes:
        coupling: which rows and columns make a unit.
        names: its weights that are prunable.
    """

    coupling: Coupling
    names: tuple[str, ...]

    def source(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], criterion: Criterion) -> Source:
        """Score the units: the root of the mean square over all weights of a unit, so that kinds of units compare.

        Scores of either sign (see `Criterion.additive`) give their mean instead.
        """
        values = [criterion.scores(name, weights[name]).float() for name in self.names]
        if not criterion.additive:
            values = [value.square() for value in values]
        by_unit = [self._by_unit(name, value) for name, value in zip(self.names, values, strict=True)]
        kept = self.alive(masks)
        size = sum(masks[name].numel() for name in self.names) // self.coupling.units
        means = torch.stack(by_unit).sum(dim=0) / size
        scores = ordered(means) if criterion.additive else means.sqrt()
        return Source(self.coupling.consumer, self.coupling.units, lambda a, b: scores[a:b], lambda a, b: kept[a:b])

    def sums(self, weights: Mapping[str, Tensor], criterion: Criterion) -> Tensor:
        """Add up the scores of each unit's weights, float32 [units]: what is lost with it, as far as scores add up."""
        values = [self._by_unit(name, criterion.scores(name, weights[name]).float()) for name in self.names]
        return torch.stack(values).sum(dim=0)

    def alive(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Tell which units an earlier round has left: bool [units]."""
        return torch.stack([self._by_unit(name, masks[name].float()) for name in self.names]).sum(dim=0) > 0

    def spread(self, kept: Tensor, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Make the mask of each weight from a bool for each unit [units]."""
        rows = kept.repeat_interleave(self.coupling.unit_size)
        for name in self.names:
            along = rows[None, :] if name == self.coupling.consumer else rows[:, None]
            yield name, along.expand(masks[name].shape).clone()

    def _by_unit(self, name: str, values: Tensor) -> Tensor:
        """Sum a weight's values over each unit: [out, in] -> [units]."""
        along = values.sum(dim=0) if name == self.coupling.consumer else values.sum(dim=1)
        return along.view(self.coupling.units, self.coupling.unit_size).sum(dim=1)


def coupled(part: Units, couplings: Sequence[Coupling], masks: Mapping[str, Tensor]) -> list[CoupledUnits]:
    """List the couplings of a kind that have prunable weights."""
    found = []
    for coupling in couplings:
        names = tuple(name for name in (*coupling.producers, coupling.consumer) if name in masks)
        if coupling.kind == part.kind and names:
            found.append(CoupledUnits(coupling, names))
    return found

"""Patterns by kind of layer: whole attention heads, feed-forward neurons, whole layers, or a pattern of weights.

A head or a neuron lives in several weights (see `Coupling`), so its unit spans them: rows of the producers and columns
of the consumer. A layer is all heads of an attention, or all neurons of a feed-forward layer: what is left of it is the
bias of its output, beside the residual path. Removing units that were pruned like this is what `compile` does, and
costs no accuracy of its own.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.pattern import SAME, Contest, LayerKind, Pattern, WeightPattern
from vlcompress.pruning.select import Source, ordered

UnitKind = Literal["head", "neuron"]

COUPLED: Mapping[LayerKind, UnitKind] = {"attention": "head", "ffn": "neuron"}
"""The kind of coupling that makes up each kind of layer."""


LAYER = "layer"
"""The word for whole layers in a pattern's name."""


@dataclass(frozen=True)
class Units:
    """Whole heads, or whole neurons: one by one, all of a layer at once, or both.

    Attributes:
        kind: of the units.
        single: whether they go one by one; one of each layer then stays, unless `whole`.
        whole: whether a layer may go.
    """

    kind: UnitKind
    single: bool = True
    whole: bool = False

    def __str__(self) -> str:
        return "+".join([self.kind] * self.single + [LAYER] * self.whole)

    def contests(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        share: float,
        criterion: Criterion,
        couplings: Sequence[Coupling],
    ) -> Iterator[Contest]:
        """Let the units of all couplings of this kind lose one share, or the couplings themselves."""
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
        words = {word for _, part in self.parts for word in str(part).split("+")}
        if self.parts == units_named(words):
            return "+".join(sorted(words, key=("neuron", "head", LAYER).index))
        return ",".join(f"{kind}={part}" for kind, part in self.parts)

    @property
    def units(self) -> list[Units]:
        """The units among the parts."""
        return [part for _, part in self.parts if isinstance(part, Units)]

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


def units_named(words: Collection[str]) -> tuple[tuple[LayerKind, Units], ...]:
    """Read the words of a pattern of units, "head", "neuron" and "layer": layers of both kinds; () for other words."""
    if not {*COUPLED.values(), LAYER}.issuperset(words) or len(set(words)) < len(words):
        return ()
    whole = LAYER in words
    return tuple((kind, Units(unit, unit in words, whole)) for kind, unit in COUPLED.items() if whole or unit in words)


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
        part: whether they go one by one, all at once, or both.
    """

    coupling: Coupling
    names: tuple[str, ...]
    part: Units = Units("head")

    def source(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], criterion: Criterion) -> Source:
        """Score the units: the root of the mean square over all weights of a unit, so that kinds of units compare.

        Scores of either sign (see `Criterion.additive`) give their mean instead. A layer that goes at once is one unit.
        """
        values = [criterion.scores(name, weights[name]).float() for name in self.names]
        if not criterion.additive:
            values = [value.square() for value in values]
        by_unit = [self._by_unit(name, value) for name, value in zip(self.names, values, strict=True)]
        kept = self.alive(masks)
        size = sum(masks[name].numel() for name in self.names) // self.coupling.units
        means = torch.stack(by_unit).sum(dim=0) / size
        if not self.part.single:
            means, kept = means.mean(dim=0, keepdim=True), kept.any(dim=0, keepdim=True)
        scores = ordered(means) if criterion.additive else means.sqrt()
        return Source(self.coupling.consumer, len(scores), lambda a, b: scores[a:b], lambda a, b: kept[a:b])

    def sums(self, weights: Mapping[str, Tensor], criterion: Criterion) -> Tensor:
        """Add up the scores of each unit's weights, float32 [units]: what is lost with it, as far as scores add up."""
        values = [self._by_unit(name, criterion.scores(name, weights[name]).float()) for name in self.names]
        return torch.stack(values).sum(dim=0)

    def alive(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Tell which units an earlier round has left: bool [units]."""
        return torch.stack([self._by_unit(name, masks[name].float()) for name in self.names]).sum(dim=0) > 0

    def spread(self, kept: Tensor, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Make the mask of each weight from a bool for each unit [units], or one for the layer [1]."""
        rows = kept.expand(self.coupling.units).repeat_interleave(self.coupling.unit_size)
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
            found.append(CoupledUnits(coupling, names, part))
    return found


def check_layers(pattern: Pattern, allocation: str, *, targeted: bool) -> None:
    """Refuse whole layers where nothing decides between them and their units, or where each is its own competitor.

    Args:
        pattern: of units or not.
        allocation: its name.
        targeted: whether prices decide what goes.

    Raises:
        VlcompressError: see above.
    """
    units = pattern.units if isinstance(pattern, Mixture) else []
    if any(part.single and part.whole for part in units) and not targeted:
        raise VlcompressError(
            f"pattern '{pattern}' without a target: by sparsity alone a layer goes with its last head or neuron; give "
            "'neuron+head' or 'layer', or a target (--speedup 2)"
        )
    if any(not part.single for part in units) and allocation == "uniform":
        raise VlcompressError(
            f"pruning.allocation 'uniform' with pattern '{pattern}': whole layers compete with each other; take "
            "'global' or 'modality'"
        )

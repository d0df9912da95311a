"""A ticket's way to a target: each round may cost less, and the last what the target says, measured on the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling
from vlcompress.pruning.budget import Kept, Prices, Pricing, affordable, coupled_units, keep, worth_of
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.mixture import CoupledUnits
from vlcompress.pruning.pattern import Pattern
from vlcompress.pruning.target import MEASURED, Target
from vlcompress.tickets.experiment import Experiment

CLOSE = 0.02
"""How close, as a share of it, the measured cost of the whole must come to the target."""

ATTEMPTS = 4
"""Choices that are measured at most; the closest is taken."""


@dataclass(frozen=True)
class Budget:
    """What the rounds of a ticket may cost.

    Attributes:
        target: what is to be reached.
        pricing: of the model.
        pattern: the units that may go.
        couplings: of the model.
    """

    target: Target
    pricing: Pricing
    pattern: Pattern
    couplings: Sequence[Coupling]

    def check(self, masks: Masks) -> str:
        """Refuse what no ticket reaches, before anything is trained; else say how far one could go.

        Raises:
            VlcompressError: the pattern has no prices, or the fewest units cost more than the target says.
        """
        units = coupled_units(self.pattern, masks, self.couplings)
        dense, fewest = self.pricing.prices.dense, self._prices(units).fewest(one.coupling.consumer for one in units)
        limit, least = self.target.limit(dense), self.pricing.measured(fewest)
        if least > limit:
            raise VlcompressError(
                f"target '{self.target}' is out of reach: with the fewest units that '{self.pattern}' leaves, "
                f"{self._said(dense, least)}; ask for less"
            )
        if limit >= dense:
            raise VlcompressError(f"target '{self.target}' prunes nothing: {self._said(dense, dense)} without pruning")
        return (
            f"target '{self.target}' is within reach: with the fewest units that '{self.pattern}' leaves, "
            f"{self._said(dense, least)}"
        )

    def cut(self, weights: Mapping[str, Tensor], masks: Masks, progress: float, criterion: Criterion) -> Masks:
        """Prune further, as far as a share `progress` of the way from dense to the target, in (0, 1].

        Args:
            weights: of the round before, trained.
            masks: what the rounds before have kept.
            progress: 1 in the last round.
            criterion: scores the weights; what a unit is worth is the sum of its weights' scores.
        """
        units = coupled_units(self.pattern, masks, self.couplings)
        worth, dense = worth_of(units, weights, masks, criterion), self.pricing.prices.dense
        limit = dense + progress * (self.target.limit(dense) - dense)
        exact, prices = progress == 1 and self.target.kind in MEASURED, self._prices(units)
        kept = self._calibrated(prices, worth, limit) if exact else affordable(prices, worth, limit)
        return keep(units, weights, masks, criterion, kept)

    def like(self, masks: Masks, criterion: Criterion) -> Masks:
        """Keep as many units of every coupling as `masks` do, the best by another criterion: as fast and as small."""
        everything = Masks.keep_all(masks)
        units = coupled_units(self.pattern, masks, self.couplings)
        return keep(
            units, masks, everything, criterion, {one.coupling.consumer: int(one.alive(masks).sum()) for one in units}
        )

    def _prices(self, units: Sequence[CoupledUnits]) -> Prices:
        """Look up what the pattern can choose from."""
        return self.pricing.prices.offered(units)

    def _calibrated(self, prices: Prices, worth: Mapping[str, Tensor], goal: float) -> Kept:
        """Choose, measure the whole, and choose again between what was too dear and what was too cheap."""
        fewest = prices.fewest(worth)  # `check` has measured that it will do
        cheap, dear = (prices.total(fewest), self.pricing.measured(fewest)), (prices.dense, prices.dense)
        found: dict[float, Kept] = {abs(cheap[1] / goal - 1): fewest}
        for _ in range(ATTEMPTS):
            share = min(1.0, max(0.0, (goal - cheap[1]) / (dear[1] - cheap[1])))
            kept = affordable(prices, worth, cheap[0] + share * (dear[0] - cheap[0]))
            point = prices.total(kept), self.pricing.measured(kept)
            off = abs(point[1] / goal - 1)
            if off in found:  # the same choice again
                break
            found[off] = kept
            if off <= CLOSE or not cheap[0] < point[0] < dear[0]:
                break
            cheap, dear = (cheap, point) if point[1] > goal else (point, dear)
        return found[min(found)]

    def _said(self, dense: float, cost: float) -> str:
        match self.target.kind:
            case "speedup":
                return f"the model is {dense / cost:.2f} times as fast as dense"
            case "latency-ms":
                return f"a batch of {self.target.batch} takes {cost:.3g} ms"
            case "size-mb":
                return f"the weights take {cost:.4g} MB"
            case _:
                return f"{cost / dense:.3g} of the operations stay"


def budget_of(experiment: Experiment) -> Budget | None:
    """Make the budget of an experiment; None where its recipe has no target.

    Raises:
        VlcompressError: a target, and nobody who knows the prices.
    """
    pruning = experiment.recipe.pruning
    if not pruning.target:
        return None
    if experiment.pricing is None:
        raise VlcompressError(
            f"target '{pruning.target}' needs prices: give `find_ticket` pricing=vlcompress.bench.pricing.pricing_of"
        )
    return Budget(pruning.target, experiment.pricing, pruning.pattern, experiment.couplings)

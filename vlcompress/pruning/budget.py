"""Budgets: the heads, neurons and layers worth most among those that a limit of time, bytes or operations can pay.

Each coupling has a price list: what it costs with so many of its units, and nothing without any. Which number of units
each keeps is a knapsack with one choice a coupling, solved over costs in whole ticks: no better choice exists but by
roundings below a tick. What is approximate is the list itself, which takes costs of couplings to add up (see
`vlcompress.bench.pricing`), and that a unit's worth does not depend on which others stay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling
from vlcompress.pruning.criterion import Criterion
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.mixture import CoupledUnits, Mixture, Units, coupled
from vlcompress.pruning.pattern import Pattern

TICKS = 4096
"""Parts that what the couplings may cost together is divided into."""

Kept = Mapping[str, int]
"""How many units each coupling keeps, by its consumer's name."""


@dataclass(frozen=True)
class PriceList:
    """What one coupling costs.

    Attributes:
        counts: rising numbers of units, up to all.
        costs: of each, in the target's unit; they need not rise.
    """

    counts: tuple[int, ...]
    costs: tuple[float, ...]

    def cost(self, count: int) -> float:
        """Look up the cost of a number of units, on straight lines between those of the list."""
        return float(np.interp(count, self.counts, self.costs))


@dataclass(frozen=True)
class Prices:
    """What a model costs: a part that stays whatever is pruned, and each coupling's part.

    Attributes:
        fixed: in the target's unit (ms, 10^6 bytes, operations).
        lists: by the coupling's consumer.
    """

    fixed: float
    lists: Mapping[str, PriceList]

    def total(self, kept: Kept) -> float:
        """Add up what a model costs that keeps so many units of each coupling, all of those not named."""
        return self.fixed + sum(one.cost(kept.get(name, one.counts[-1])) for name, one in self.lists.items())

    def offered(self, units: Iterable[CoupledUnits]) -> "Prices":
        """Keep what a pattern can choose from; a layer that may go costs nothing then."""
        lists = {one.coupling.consumer: _offered(one.part, self.lists[one.coupling.consumer]) for one in units}
        return replace(self, lists={**self.lists, **lists})

    @property
    def dense(self) -> float:
        """What the whole model costs."""
        return self.total({})

    def fewest(self, names: Iterable[str]) -> Kept:
        """Take the fewest units of these couplings: whoever asks for less than that costs asks in vain."""
        return {name: self.lists[name].counts[0] for name in names}


class Pricing(Protocol):
    """A model's prices, and a check of what the whole costs."""

    @property
    def prices(self) -> Prices:
        """The prices by coupling."""

    def measured(self, kept: Kept) -> float:
        """Measure the whole model that keeps so many units, in the target's unit."""


def affordable(prices: Prices, worth: Mapping[str, Tensor], limit: float) -> dict[str, int]:
    """Choose how many units each coupling keeps: the most worth within a limit.

    Args:
        prices: of the model.
        worth: of each coupling's units that are still there, float [alive], by its consumer; the best stay.
        limit: of the whole cost.

    Returns:
        A count of the coupling's price list, at most its units that are still there, for each name of `worth`.

    Raises:
        VlcompressError: even the fewest units cost more.
    """
    names = list(worth)
    left = prices.fewest(names)
    rest = prices.total(left) - sum(prices.lists[name].cost(count) for name, count in left.items())
    size = (limit - rest) / TICKS
    best: NDArray[np.float64] = np.full(TICKS + 1, -np.inf)
    best[0] = 0.0
    picks: list[NDArray[np.int64]] = []
    options = [_options(prices.lists[name], worth[name]) for name in names]
    for counts, costs, values in options:
        ticks = np.ceil(costs / size - 1e-9).astype(int) if size > 0 else np.full(len(counts), TICKS + 1)
        table = np.full((len(counts), TICKS + 1), -np.inf)
        for row, tick, value in zip(table, ticks, values, strict=True):
            if tick <= TICKS:
                row[tick:] = best[: TICKS + 1 - tick] + value
        picks.append(table.argmax(axis=0))
        best = table.max(axis=0)
    if not np.isfinite(best).any():
        if prices.total(left) <= limit:  # they fit, though not in whole ticks
            return dict(left)
        raise VlcompressError(
            f"a limit of {limit:.4g} is out of reach: with the fewest units the model costs {prices.total(left):.4g}"
        )
    return _walk_back(names, options, picks, int(best.argmax()), size)


def _offered(part: Units, prices: PriceList) -> PriceList:
    """Keep the numbers of units that a part of a pattern leaves: all of a layer's or none, where only it may go."""
    counts, costs = (prices.counts, prices.costs) if part.single else (prices.counts[-1:], prices.costs[-1:])
    return PriceList((0, *counts), (0.0, *costs)) if part.whole else PriceList(counts, costs)


def _options(prices: PriceList, worth: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """List counts that are possible still, their costs, and what the best so many units are worth."""
    alive = len(worth)
    counts = np.array(sorted({min(count, alive) for count in prices.counts}))
    gathered = np.concatenate([[0.0], worth.double().sort(descending=True).values.cumsum(0).numpy()])
    return counts, np.array([prices.cost(count) for count in counts]), gathered[counts]


def _walk_back(
    names: Sequence[str],
    options: Sequence[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]],
    picks: Sequence[NDArray[np.int64]],
    spent: int,
    size: float,
) -> dict[str, int]:
    kept = {}
    for name, (counts, costs, _), pick in reversed(list(zip(names, options, picks, strict=True))):
        chosen = int(pick[spent])
        kept[name] = int(counts[chosen])
        spent -= int(np.ceil(costs[chosen] / size - 1e-9))
    return kept


def coupled_units(pattern: Pattern, masks: Masks, couplings: Sequence[Coupling]) -> list[CoupledUnits]:
    """List the couplings whose units a pattern removes.

    Raises:
        VlcompressError: a pattern that removes anything but units.
    """
    if not isinstance(pattern, Mixture) or pattern.by_kind:
        raise VlcompressError(
            f"pattern '{pattern}' with a target: whole units alone have a price; give head, neuron, layer, "
            "neuron+head or neuron+head+layer"
        )
    return [one for _, part in pattern.parts if isinstance(part, Units) for one in coupled(part, couplings, masks)]


def worth_of(
    units: Sequence[CoupledUnits], weights: Mapping[str, Tensor], masks: Masks, criterion: Criterion
) -> dict[str, Tensor]:
    """Sum up the scores of each unit's weights: float [alive], by consumer, for the units that are still there."""
    return {one.coupling.consumer: one.sums(weights, criterion)[one.alive(masks)] for one in units}


def keep(
    units: Sequence[CoupledUnits], weights: Mapping[str, Tensor], masks: Masks, criterion: Criterion, kept: Kept
) -> Masks:
    """Prune each coupling to its best units, so many of them; what is gone stays gone, and ties go by index."""
    pruned = dict(masks)
    for one in units:
        sums = one.sums(weights, criterion).masked_fill(~one.alive(masks), -torch.inf)
        stay = torch.zeros(len(sums), dtype=torch.bool)
        stay[sums.sort(descending=True, stable=True).indices[: kept[one.coupling.consumer]]] = True
        pruned |= {name: pruned[name] & mask for name, mask in one.spread(stay, masks)}
    return Masks(pruned)

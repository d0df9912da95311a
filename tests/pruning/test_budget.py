"""Budgets: the choice is the best that the limit pays, as trying every choice shows, and whole units go."""

import itertools
from typing import Any

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.pruning.budget import PriceList, Prices, affordable, coupled_units, keep, worth_of
from vlcompress.pruning.criterion import Magnitude
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.patterns import parse_pattern

FAMILY = LxmertFamily()
CONFIG = FAMILY.config("tiny", vocab_size=50, feature_dim=16)


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_of_all_choices(seed: int) -> None:
    """Costs are whole ticks of the limit here, so that nothing is rounded."""
    random = torch.Generator().manual_seed(seed)
    counts = [(1, 2, 4), (1, 3), (1, 2, 3, 5)]
    costs = [torch.randint(1, 60, (len(one),), generator=random).sort().values.tolist() for one in counts]
    prices = Prices(
        7.0, {str(at): PriceList(*map(tuple, pair)) for at, pair in enumerate(zip(counts, costs, strict=True))}
    )
    worth = {str(at): torch.rand(one[-1], generator=random) for at, one in enumerate(counts)}
    limit = 7.0 + 128.0  # a power of two below TICKS: every cost is a whole number of ticks

    def value(choice: tuple[int, ...]) -> float:
        return sum(float(worth[str(at)].double().topk(count).values.sum()) for at, count in enumerate(choice))

    possible = [
        choice
        for choice in itertools.product(*counts)
        if prices.total({str(at): count for at, count in enumerate(choice)}) <= limit
    ]
    chosen = affordable(prices, worth, limit)
    assert prices.total(chosen) <= limit
    assert value(tuple(chosen[str(at)] for at in range(3))) == pytest.approx(max(map(value, possible)), abs=1e-9)


def test_cheap_units_stay_where_dear_ones_of_the_same_worth_go() -> None:
    prices = Prices(0.0, {"dear": PriceList((1, 4), (3.0, 12.0)), "cheap": PriceList((1, 4), (1.0, 4.0))})
    chosen = affordable(prices, {"dear": torch.ones(4), "cheap": torch.ones(4)}, 8.0)
    assert chosen == {"dear": 1, "cheap": 4}


def test_couplings_that_are_no_choice_cost_what_they_cost() -> None:
    prices = Prices(1.0, {"chosen": PriceList((1, 4), (1.0, 4.0)), "whole": PriceList((1, 4), (2.0, 8.0))})
    assert affordable(prices, {"chosen": torch.ones(4)}, 11.0) == {"chosen": 1}
    with pytest.raises(VlcompressError, match="costs 10"):
        affordable(prices, {"chosen": torch.ones(4)}, 9.5)


def test_a_limit_above_what_all_cost_keeps_all() -> None:
    prices = Prices(1.0, {"a": PriceList((1, 2, 3), (1.0, 2.0, 3.0))})
    assert affordable(prices, {"a": torch.rand(3)}, 100.0) == {"a": 3}


@pytest.mark.parametrize("limit", [1.5, 1.0, 0.0])
def test_a_limit_below_the_fewest_units_says_what_those_cost(limit: float) -> None:
    prices = Prices(1.0, {"a": PriceList((1, 2), (1.0, 2.0))})
    with pytest.raises(VlcompressError, match=r"out of reach: with the fewest units the model costs 2"):
        affordable(prices, {"a": torch.rand(2)}, limit)


def test_a_limit_of_just_the_fewest_units_is_no_matter_of_rounding() -> None:
    """Each cost is 4096 / 7 ticks: rounded up one by one they would not fit."""
    prices = Prices(1.0, {str(at): PriceList((1, 2), (0.3, 0.6)) for at in range(7)})
    limit = prices.total(prices.fewest(prices.lists))
    assert affordable(prices, {str(at): torch.rand(2) for at in range(7)}, limit) == dict.fromkeys(
        map(str, range(7)), 1
    )


def test_units_that_are_gone_are_no_choice() -> None:
    prices = Prices(0.0, {"a": PriceList((1, 2, 4), (1.0, 2.0, 4.0))})
    assert affordable(prices, {"a": torch.rand(3)}, 100.0) == {"a": 3}


def test_a_layer_that_may_go_is_all_or_nothing_or_goes_with_its_last_unit(model: Any) -> None:
    masks = Masks.keep_all({name: model.get_parameter(name) for name in FAMILY.prunable(model, "bert-tickets").names})
    prices = PriceList((1, 2, 4), (1.0, 2.0, 4.0))
    offered = {}
    for text in ("head", "layer", "neuron+head+layer"):
        one = coupled_units(parse_pattern(text), masks, FAMILY.couplings(model))[0]
        name = one.coupling.consumer
        offered[text] = Prices(0.0, {name: prices}).offered([one]).lists[name]
    assert offered["head"] == prices
    assert offered["layer"] == PriceList((0, 4), (0.0, 4.0))
    assert offered["neuron+head+layer"] == PriceList((0, 1, 2, 4), (0.0, 1.0, 2.0, 4.0))


def test_a_layer_of_little_worth_goes_whole() -> None:
    lists = {"poor": PriceList((0, 1, 4), (0.0, 3.0, 4.0)), "rich": PriceList((0, 1, 4), (0.0, 3.0, 4.0))}
    assert affordable(Prices(0.0, lists), {"poor": torch.full((4,), 0.1), "rich": torch.ones(4)}, 6.0) == {
        "poor": 0,
        "rich": 4,
    }


@pytest.fixture(scope="module")
def model() -> Any:
    return FAMILY.build(CONFIG, Head("answers", ("a", "b", "c")), seed=0).eval()


def _kept(model: Any, masks: Masks, counts: dict[str, int]) -> Masks:
    weights = {name: model.get_parameter(name).detach() for name in masks}
    units = coupled_units(parse_pattern("neuron+head"), masks, FAMILY.couplings(model))
    everywhere = {one.coupling.consumer: counts[one.coupling.kind] for one in units}
    return keep(units, weights, masks, Magnitude(), everywhere)


def test_each_coupling_keeps_its_best_units_and_the_rounds_are_nested(model: Any) -> None:
    weights = {name: model.get_parameter(name).detach() for name in FAMILY.prunable(model, "bert-tickets").names}
    first = _kept(model, Masks.keep_all(weights), {"head": 1, "neuron": 9})
    second = _kept(model, first, {"head": 1, "neuron": 4})
    for coupling in FAMILY.couplings(model):
        rows = second[coupling.producers[0]].view(coupling.units, -1).any(dim=1)
        assert int(rows.sum()) == (1 if coupling.kind == "head" else 4)
        assert not (second[coupling.consumer] & ~first[coupling.consumer]).any()
        columns = weights[coupling.consumer].abs().T.reshape(coupling.units, -1).sum(dim=1)
        worth = columns + sum(weights[name].abs().view(coupling.units, -1).sum(dim=1) for name in coupling.producers)
        assert set(rows.nonzero()[:, 0].tolist()) == set(worth.topk(int(rows.sum())).indices.tolist())


def test_worth_leaves_out_what_is_gone(model: Any) -> None:
    weights = {name: model.get_parameter(name).detach() for name in FAMILY.prunable(model, "bert-tickets").names}
    masks = _kept(model, Masks.keep_all(weights), {"head": 1, "neuron": 9})
    units = coupled_units(parse_pattern("neuron"), masks, FAMILY.couplings(model))
    assert {len(one) for one in worth_of(units, weights, masks, Magnitude()).values()} == {9}


@pytest.mark.parametrize("pattern", ["attention=head,ffn=block:4x4", "unstructured"])
def test_blocks_have_no_price(model: Any, pattern: str) -> None:
    masks = Masks.keep_all({name: model.get_parameter(name) for name in FAMILY.prunable(model, "bert-tickets").names})
    with pytest.raises(VlcompressError, match="whole units alone have a price"):
        coupled_units(parse_pattern(pattern), masks, FAMILY.couplings(model))

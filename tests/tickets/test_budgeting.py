"""Tickets with a target: what the rounds cost, what controls cost beside them, and targets that no ticket reaches."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from vlcompress.bench.pricing import Subject, count_bytes, count_operations, pricing_of
from vlcompress.errors import VlcompressError
from vlcompress.pruning.budget import Kept, PriceList, Prices
from vlcompress.pruning.criterion import Magnitude
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.target import parse_target
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.sparse.shrink import shrink
from vlcompress.tickets.budgeting import CLOSE, Budget
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import train_arms
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.run import find_ticket


def aimed(recipe: Recipe, target: str, **pruning: object) -> Recipe:
    changed = {"pattern": "neuron+head", "schedule": "levels:30,60", "sparsity": 0.6, "target": target, **pruning}
    return recipe.override(pruning=changed)


def opened(recipe: Recipe, home: Path) -> Experiment:
    experiment = open_experiment(recipe, home, say=lambda line: None)
    experiment.pricing = pricing_of(experiment)
    return experiment


def size_mb(experiment: Experiment, masks: Masks) -> float:
    model = experiment.family.build(experiment.config, experiment.train_task.head, seed=0).eval()
    masks.apply(model)
    smaller, _, _ = shrink(experiment.family, model, dict(masks))
    return sum(parameter.numel() for parameter in smaller.parameters()) * 4 / 1e6


def test_the_last_round_reaches_the_size_and_the_first_goes_half_of_the_way(recipe: Recipe, tmp_path: Path) -> None:
    experiment = opened(aimed(recipe, "size-mb:0.1", controls=["random", "unstructured"]), tmp_path)
    dense = count_bytes(_subject(experiment)).dense
    cells = {(cell.arm, cell.round): cell for cell in train_arms(experiment)}
    sizes = [size_mb(experiment, cells["ticket", at].trained[0].masks()) for at in (1, 2)]
    assert 0.095 < sizes[1] <= 0.1
    assert (dense + 0.1) / 2 * 0.95 < sizes[0] <= (dense + 0.1) / 2
    ticket, random = (cells[arm, 2].trained[0].masks() for arm in ("ticket", "random"))
    assert size_mb(experiment, random) == pytest.approx(sizes[1], abs=1e-9)
    assert random.sha256() != ticket.sha256()
    levels = [cells["unstructured", at].sparsity for at in (1, 2)]
    assert levels == pytest.approx([cells["ticket", at].sparsity for at in (1, 2)], abs=1e-4)


@pytest.mark.parametrize("pattern", ["layer", "neuron+head+layer"])
def test_layers_go_for_a_size_that_heads_and_neurons_alone_do_not_reach(
    recipe: Recipe, tmp_path: Path, pattern: str
) -> None:
    experiment = opened(aimed(recipe, "size-mb:0.06", pattern=pattern, controls=["random"]), tmp_path)
    ticket, random = (cell.trained[0].masks() for cell in train_arms(experiment) if cell.round == 2)
    assert size_mb(experiment, ticket) == pytest.approx(size_mb(experiment, random), abs=1e-9)
    assert size_mb(experiment, ticket) <= 0.06
    assert any(not ticket[one.consumer].any() for one in experiment.couplings)


def test_what_is_gone_stays_gone(recipe: Recipe, tmp_path: Path) -> None:
    cells = train_arms(opened(aimed(recipe, "flops:0.5"), tmp_path))
    first, second = (cell.trained[0].masks() for cell in cells if cell.arm == "ticket")
    assert not any((second[name] & ~first[name]).any() for name in first)


def _subject(experiment: Experiment) -> Subject:
    model = experiment.family.build(experiment.config, experiment.train_task.head, seed=0).eval()
    inputs = experiment.score_task.batch(range(4), torch.Generator()).inputs  # type: ignore[attr-defined]
    return Subject(experiment.family, experiment.config, model, inputs)


@pytest.mark.parametrize("count", [count_bytes, count_operations])
def test_counted_prices_are_those_of_the_smaller_model(recipe: Recipe, tmp_path: Path, count: object) -> None:
    """The whole is counted anew on a model that was cut; what it has no price for stays."""
    subject = _subject(open_experiment(recipe, tmp_path, say=lambda line: None))
    prices = count(subject)  # type: ignore[operator]
    kept = {name: one.counts[len(one.counts) // 2] for name, one in prices.lists.items()}
    smaller = replace(subject, model=subject.smaller(kept))
    assert count(smaller).dense == pytest.approx(prices.total(kept), rel=1e-6)  # type: ignore[operator]
    assert prices.total(kept) < prices.dense


@dataclass
class Skewed:
    """Prices that are wrong by a factor, and a whole that is measured right."""

    prices: Prices
    asked: list[Kept]

    def measured(self, kept: Kept) -> float:
        self.asked.append(kept)
        return 1.0 + 1.5 * (self.prices.total(kept) - self.prices.fixed)


def test_a_speed_is_reached_though_the_prices_are_off(recipe: Recipe, tmp_path: Path) -> None:
    experiment = open_experiment(aimed(recipe, "speedup:2"), tmp_path, say=lambda line: None)
    lists = {
        one.consumer: PriceList(tuple(range(1, one.units + 1)), tuple(0.01 * at for at in range(1, one.units + 1)))
        for one in experiment.couplings
    }
    pricing = Skewed(Prices(1.0, lists), [])
    budget = Budget(parse_target("speedup:2"), pricing, experiment.recipe.pruning.pattern, experiment.couplings)
    masks = budget.cut(experiment.theta0, experiment.keep_all(), 1.0, Magnitude())
    goal = pricing.prices.dense / 2
    costs = [abs(1.0 + 1.5 * (pricing.prices.total(kept) - 1.0) - goal) for kept in pricing.asked]
    assert costs[0] / goal > CLOSE  # the first choice, by the prices alone
    assert min(costs) / goal <= CLOSE
    chosen = pricing.asked[costs.index(min(costs))]
    alive = {
        one.consumer: int(masks[one.producers[0]].view(one.units, -1).any(dim=1).sum()) for one in experiment.couplings
    }
    assert alive == dict(chosen)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("size-mb:0.01", "'size-mb:0.01' is out of reach: with the fewest units that 'neuron.head' leaves"),
        ("flops:0.01", "of the operations stay; ask for less"),
        ("size-mb:900", "'size-mb:900' prunes nothing"),
    ],
)
def test_a_target_out_of_reach_is_refused_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path, target: str, said: str
) -> None:
    with pytest.raises(VlcompressError, match=said):
        find_ticket(aimed(recipe, target), tmp_path, say=lambda line: None, pricing=pricing_of)
    assert not list(tmp_path.glob("trainings/*"))


def test_without_prices_it_says_where_they_are(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"give `find_ticket` pricing=vlcompress.bench.pricing.pricing_of"):
        find_ticket(aimed(recipe, "flops:0.5"), tmp_path, say=lambda line: None)


@pytest.mark.parametrize(("name", "value"), [("allocation", "uniform"), ("rounds", 1), ("growth", "16x1")])
def test_what_a_target_takes_over_is_no_choice(recipe: Recipe, name: str, value: object) -> None:
    with pytest.raises(VlcompressError, match=f"pruning.{name} '{value}' has no effect with target 'flops:0.5'"):
        aimed(recipe, "flops:0.5", **{name: value})


def test_pretraining_has_no_exported_model(tmp_path: Path) -> None:
    recipe = aimed(default_recipe("lxmert", "pretraining", "tiny"), "flops:0.5")
    experiment = open_experiment(recipe, tmp_path, say=lambda line: None)
    with pytest.raises(VlcompressError, match="has no exported model"):
        pricing_of(experiment)

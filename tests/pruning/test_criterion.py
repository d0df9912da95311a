"""Criteria that rank by what a training summed up: signs, blocks, heads, and the order that a selection sees."""

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Gradient, Movement, Random, parse_criterion
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Block, Unstructured
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.pruning.select import ordered

RNG = torch.Generator().manual_seed(2)
SUMS = {"a": torch.randn(32, 48, generator=RNG), "b": torch.randn(16, 16, generator=RNG)}
WEIGHTS = {name: torch.ones_like(sums) for name, sums in SUMS.items()}


def test_signed_numbers_keep_their_order_in_what_a_selection_reads() -> None:
    numbers = torch.cat([torch.randn(10_000, generator=RNG), torch.tensor([0.0, -0.0, 3e38, -3e38, 1e-40, -1e-40])])
    keys = ordered(numbers)
    assert (keys >= 0).all()
    assert torch.isfinite(keys).all()
    by_value = numbers[numbers.argsort()]
    assert (ordered(by_value).diff() >= 0).all()
    far = numbers[(numbers.abs() > 0.1) & (numbers.abs() < 10)].sort().values
    apart = far[1:][far.diff() > 1e-5], far[:-1][far.diff() > 1e-5]
    assert (ordered(apart[0]) > ordered(apart[1])).all()


@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 8)], ids=str)
def test_movement_keeps_what_moved_away_from_zero(pattern: Unstructured | Block) -> None:
    """Negative sums go before small ones: |movement| would keep another set."""
    masks = prune(WEIGHTS, Masks.keep_all(WEIGHTS), 0.5, pattern=pattern, criterion=Movement(SUMS), allocation=Global())
    scores = {name: pattern.unit_means(sums) for name, sums in SUMS.items()}
    line = torch.cat(list(scores.values())).sort().values
    middle = line[len(line) // 2]
    for name, mask in masks.items():
        assert torch.equal(mask, pattern.spread(scores[name] >= middle, mask.shape))


def test_gradient_ranks_blocks_by_the_root_mean_square_of_the_sums() -> None:
    sums = {name: value.abs() for name, value in SUMS.items()}
    masks = prune(
        WEIGHTS, Masks.keep_all(WEIGHTS), 0.5, pattern=Block(4, 8), criterion=Gradient(sums), allocation=Global()
    )
    scores = torch.cat([Block(4, 8).unit_scores(sums[name]) for name in sums])
    kept = torch.cat([masks[name][::4, ::8].flatten() for name in sums])
    assert scores[kept].min() >= scores[~kept].max()


def test_what_is_gone_stays_gone_even_where_its_sum_is_above_a_negative_one() -> None:
    before = Masks({name: sums > -0.5 for name, sums in SUMS.items()})
    sums = {name: torch.where(before[name], -sums.abs() - 1, 0.0) for name, sums in SUMS.items()}
    after = prune(WEIGHTS, before, 0.6, pattern=Unstructured(), criterion=Movement(sums), allocation=Global())
    assert all(not (after[name] & ~before[name]).any() for name in after)
    assert after.sparsity == pytest.approx(0.6, abs=1e-3)


def test_movement_of_whole_neurons_is_the_mean_over_their_rows_and_columns() -> None:
    weights = {"up": torch.ones(6, 4), "down": torch.ones(4, 6)}
    sums = {"up": torch.randn(6, 4, generator=RNG), "down": torch.randn(4, 6, generator=RNG)}
    neurons = Coupling("neuron", ("up",), "down", units=6, unit_size=1, constant_from="up")
    masks = prune(
        weights,
        Masks.keep_all(weights),
        0.5,
        pattern=parse_pattern("neuron"),
        criterion=Movement(sums),
        allocation=Global(),
        couplings=[neurons],
    )
    means = (sums["up"].sum(dim=1) + sums["down"].sum(dim=0)) / 8
    assert torch.equal(masks["up"][:, 0], means >= means.sort().values[3])


def test_names() -> None:
    sums = [parse_criterion(name).saliency for name in ("gradient", "movement", "magnitude")]
    assert sums == ["gradient", "movement", None]
    with pytest.raises(VlcompressError, match=r"unknown criterion 'moovement': .*did you mean 'movement'"):
        parse_criterion("moovement")


def test_chance_depends_on_seed_weight_and_place() -> None:
    """A large weight is scored in pieces: no two pieces may be ranked alike."""
    piece = torch.ones(64)
    drawn = [
        Random(seed).scores(name, piece, start)
        for seed, name, start in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 64))
    ]
    assert len({tuple(one.tolist()) for one in drawn}) == 4
    assert torch.equal(Random(0).scores("a", piece, 64), drawn[3])
    assert all(bool(((one > 0) & (one <= 1)).all()) for one in drawn)

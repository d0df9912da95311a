"""The radix select against a stable sort: same cut, same ties, on every shape of input."""

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.pruning import select
from vlcompress.pruning.select import Source, kept_units, ordered, smallest


def source(name: str, scores: torch.Tensor, alive: torch.Tensor | None = None) -> Source:
    cut = None if alive is None else lambda a, b: alive[a:b]
    return Source(name, len(scores), lambda a, b: scores[a:b], cut)


def by_sorting(scores: torch.Tensor, count: int) -> torch.Tensor:
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[torch.sort(scores, stable=True).indices[:count]] = False
    return keep


@pytest.mark.parametrize("count", [0, 1, 37, 500, 999, 1000])
@pytest.mark.parametrize("levels", [3, 1_000_000], ids=["many-ties", "distinct"])
def test_agrees_with_a_stable_sort(count: int, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "PIECE", 64)  # so that pieces, and ties across them, occur at this size
    scores = torch.randint(levels, (1000,), generator=torch.Generator().manual_seed(1)).float() / levels
    parts = [source("a", scores[:300]), source("b", scores[300:301]), source("c", scores[301:])]
    kept = kept_units(parts, smallest(parts, count))
    assert torch.equal(torch.cat(list(kept.values())), by_sorting(scores, count))


def test_scores_that_differ_in_the_last_bit_are_told_apart() -> None:
    low = torch.tensor([1.0, 1.0]).view(torch.int32).add(torch.tensor([0, 1], dtype=torch.int32)).view(torch.float32)
    parts = [source("a", low.flip(0))]
    assert kept_units(parts, smallest(parts, 1))["a"].tolist() == [True, False]


def test_numbers_of_either_sign_are_ordered_to_the_last_bit_but_one() -> None:
    bits = torch.arange(0, 64, 2, dtype=torch.int32)
    size = torch.cat([(0x3F800000 + bits).view(torch.float32), torch.tensor([0.0, 3e38])])
    numbers = torch.cat([-size, size]).unique()
    found = ordered(numbers)
    assert (found >= 0).all()
    assert (found[1:] > found[:-1]).all()


def test_pruned_units_go_first_even_where_a_living_score_is_zero() -> None:
    alive = torch.tensor([True, True, False, True])
    parts = [source("a", torch.tensor([0.0, 5.0, 9.0, 7.0]), alive)]
    assert kept_units(parts, smallest(parts, 1))["a"].tolist() == [True, True, False, True]
    assert kept_units(parts, smallest(parts, 2))["a"].tolist() == [False, True, False, True]


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -1.0])
def test_refuses_scores_that_are_not_finite_numbers(bad: float) -> None:
    with pytest.raises(VlcompressError, match="weight 'a' gives a score that is not a finite number"):
        smallest([source("a", torch.tensor([1.0, bad]))], 1)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3), (3, 5)])
@pytest.mark.parametrize("levels", [3, 1_000_000], ids=["many-ties", "distinct"])
def test_spared_units_stay_and_the_others_compete(n: int, m: int, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "PIECE", 64)
    scores = torch.randint(levels, (900,), generator=torch.Generator().manual_seed(2)).float() / levels
    alive = torch.rand(900, generator=torch.Generator().manual_seed(3)) > 0.1
    one = Source("a", 900, lambda a, b: scores[a:b], lambda a, b: alive[a:b], (n, m))
    rank = scores.where(alive, -1.0).view(-1, m).sort(stable=True).indices.argsort(dim=1).flatten()
    may_go = (rank < m - n) | ~alive
    assert one.removable == 900 // m * (m - n)
    for count in (300, one.removable):
        expected = by_sorting(scores.where(alive, -1.0).where(may_go, 2.0), count)
        assert torch.equal(kept_units([one], smallest([one], count))["a"], expected)


def test_the_largest_finite_score_is_below_what_is_spared() -> None:
    scores = torch.tensor([torch.finfo(torch.float32).max] * 4)
    one = Source("a", 4, lambda a, b: scores[a:b], spares=(2, 4))
    assert kept_units([one], smallest([one], 2))["a"].tolist() == [False, False, True, True]
    with pytest.raises(VlcompressError, match="cannot prune 3 of 2 units"):
        smallest([one], 3)


def test_refuses_a_count_out_of_range() -> None:
    with pytest.raises(VlcompressError, match="cannot prune 3 of 2 units"):
        smallest([source("a", torch.ones(2))], 3)

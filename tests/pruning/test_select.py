"""The radix select against a stable sort: same cut, same ties, on every shape of input."""

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.pruning import select
from vlcompress.pruning.select import Source, kept_units, smallest


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


def test_pruned_units_go_first_even_where_a_living_score_is_zero() -> None:
    alive = torch.tensor([True, True, False, True])
    parts = [source("a", torch.tensor([0.0, 5.0, 9.0, 7.0]), alive)]
    assert kept_units(parts, smallest(parts, 1))["a"].tolist() == [True, True, False, True]
    assert kept_units(parts, smallest(parts, 2))["a"].tolist() == [False, True, False, True]


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -1.0])
def test_refuses_scores_that_are_not_finite_numbers(bad: float) -> None:
    with pytest.raises(VlcompressError, match="weight 'a' gives a score that is not a finite number"):
        smallest([source("a", torch.tensor([1.0, bad]))], 1)


def test_refuses_a_count_out_of_range() -> None:
    with pytest.raises(VlcompressError, match="cannot prune 3 of 2 units"):
        smallest([source("a", torch.ones(2))], 3)

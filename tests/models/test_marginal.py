"""The best that one answer to all can do, counted by hand."""

from math import log

import pytest
import torch
from torch.nn.functional import mse_loss

from vlcompress.models.marginal import Asked, constant_losses, labelled


def losses(*batches: dict[str, Asked]) -> list[float]:
    return constant_losses(lambda: batches).tolist()


def test_classes_are_answered_by_how_often_they_are_wanted() -> None:
    both = {"words": labelled(torch.tensor([0, 0, -1]), -1)}, {"words": labelled(torch.tensor([0, 2]), -1)}
    assert losses(*both) == pytest.approx([-log(0.75), (-log(0.75) - log(0.25)) / 2])  # a batch weighs one


def test_what_nobody_asks_for_costs_nothing() -> None:
    assert losses({"answers": labelled(torch.tensor([-1, -1]), -1)}) == [0.0]
    unsure = Asked(torch.tensor([-1, 1]), torch.tensor([0.0, 0.5]))
    assert losses({"objects": unsure}) == [0.0]


def test_probabilities_cost_their_divergence_from_the_mean() -> None:
    wanted = Asked(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0.5, 0.5]))
    divergences = log(1 / 0.75), 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25)
    assert losses({"classes": wanted}) == pytest.approx([sum(divergences) / 2])


def test_features_cost_their_error_from_the_mean_of_what_is_asked() -> None:
    def squared(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return mse_loss(said, wanted, reduction="none")

    wanted = Asked(torch.tensor([[0.0, 4.0], [2.0, 4.0], [90.0, 90.0]]), torch.tensor([0.5, 0.5, 0.0]), squared)
    assert losses({"features": wanted}) == [0.5]


def test_losses_of_a_batch_are_added() -> None:
    matched = labelled(torch.tensor([0, 1]), -1)
    assert losses({"matched": matched, "words": matched}, {"matched": matched}) == pytest.approx([2 * log(2), log(2)])

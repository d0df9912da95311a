"""Intersection over union of pixels, counted by hand."""

import pytest
import torch

from vlcompress.tasks.metrics.segmentation import class_overlaps, confusion


def test_overlaps_are_counted_over_all_pixels() -> None:
    true = torch.tensor([[0, 0, 1], [1, 1, 2]])
    predicted = torch.tensor([[0, 1, 1], [1, 2, 2]])
    counts = confusion(predicted, true, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert class_overlaps(counts).tolist() == [pytest.approx(1 / 2), pytest.approx(2 / 4), pytest.approx(1 / 2)]


def test_a_class_that_is_only_predicted_lowers_the_others_and_counts_not_itself() -> None:
    counts = confusion(torch.tensor([0, 3, 0, 0]), torch.tensor([0, 0, 0, 0]), 4)
    assert class_overlaps(counts).tolist() == [0.75]

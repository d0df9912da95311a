"""Average precision on cases that are counted by hand."""

import pytest
import torch

from vlcompress.tasks.metrics.detection import Boxes, average_precision, intersection_over_union


def boxes(corners: list[list[float]], classes: list[int], scores: list[float] | None = None) -> Boxes:
    return Boxes(
        torch.tensor(corners).reshape(-1, 4), torch.tensor(classes), torch.tensor(scores or [1.0] * len(classes))
    )


A, B, FAR = [0.0, 0, 10, 10], [20.0, 20, 30, 30], [50.0, 50, 60, 60]


def test_overlap_is_shared_area_over_joint_area() -> None:
    found = intersection_over_union(torch.tensor([A, [5.0, 0, 15, 10]]), torch.tensor([A, FAR]))
    assert found.tolist() == [[1.0, 0.0], [pytest.approx(50 / 150), 0.0]]


def test_boxes_of_less_than_a_pixel_overlap_as_large_ones_do() -> None:
    small = torch.tensor([[0.0, 0, 0.1, 0.1], [0.05, 0, 0.15, 0.1]])
    found = intersection_over_union(small, small)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1 / 3], [1 / 3, 1.0]]))


def test_all_right_is_1_and_nothing_found_is_0() -> None:
    true = [boxes([A, B], [0, 0])]
    assert average_precision([boxes([B, A], [0, 0], [0.3, 0.9])], true, 0, 0.5) == 1.0
    assert average_precision([boxes([], [], [])], true, 0, 0.5) == 0.0
    assert average_precision([boxes([A], [0])], true, 1, 0.5) is None


def test_a_wrong_one_before_the_right_one_halves_precision() -> None:
    true = [boxes([A, B], [0, 0])]
    found = [boxes([A, FAR, B], [0, 0, 0], [0.9, 0.8, 0.7])]
    assert average_precision(found, true, 0, 0.5) == pytest.approx((1 + 2 / 3) / 2)
    late = [boxes([A, FAR, B], [0, 0, 0], [0.5, 0.8, 0.7])]
    assert average_precision(late, true, 0, 0.5) == pytest.approx((2 / 3 + 2 / 3) / 2)  # precision is made to fall


def test_a_true_box_is_claimed_once_by_the_most_confident() -> None:
    twice = [boxes([A, A], [0, 0], [0.6, 0.9])]
    assert average_precision(twice, [boxes([A, B], [0, 0])], 0, 0.5) == pytest.approx(0.5)


def test_a_box_found_in_a_picture_without_any_is_wrong() -> None:
    found, true = [boxes([A], [0], [0.9]), boxes([B], [0], [0.8])], [boxes([], []), boxes([B], [0])]
    assert average_precision(found, true, 0, 0.5) == pytest.approx(0.5)


def test_pictures_without_detections_are_an_error_and_not_left_out() -> None:
    with pytest.raises(ValueError, match="longer"):
        average_precision([boxes([A], [0])], [boxes([A], [0]), boxes([B], [0])], 0, 0.5)


def test_pictures_and_classes_are_kept_apart_and_the_overlap_counts() -> None:
    true = [boxes([A], [0]), boxes([B], [0])]
    assert average_precision([boxes([B], [0]), boxes([A], [0])], true, 0, 0.5) == 0.0
    assert average_precision([boxes([A], [1]), boxes([B], [0])], true, 0, 0.5) == pytest.approx(0.5)
    shifted = [boxes([[0.0, 0, 10, 6]], [0]), boxes([B], [0])]
    assert average_precision(shifted, true, 0, 0.5) == 1.0
    assert average_precision(shifted, true, 0, 0.75) == pytest.approx(0.25)  # the wrong one comes first

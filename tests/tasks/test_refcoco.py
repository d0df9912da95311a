"""RefCOCO: trained on annotated boxes with the loss summed, scored on detected ones, and on annotated beside."""

import json

import pytest
import torch
from torch import nn

from tests.tasks.conftest import MemoryPictures, ShowingFamily, make_data, make_reader
from vlcompress.data.examples import HIDDEN, ReferringExample
from vlcompress.models.base import Sample
from vlcompress.tasks.refcoco import RefcocoTask, RefcocoTraining

PICTURES = MemoryPictures(
    detected={"a": [[0, 0, 10, 10], [40, 40, 60, 60], [2, 2, 3, 3]], "b": [[10, 10, 20, 20]]},
    annotated={"a": [[41, 41, 61, 61], [0, 0, 9, 9]], "b": [[12, 10, 30, 20]]},
)
EXAMPLES = [
    ReferringExample(7, "a", "the red cube", (41, 41, 20, 20), 0),
    ReferringExample(8, "a", "the blue ball", (0, 0, 9, 9), 1),
    ReferringExample(9, "b", "the ball", (12, 10, 18, 10), 0),
]


def last_is_best(sample: Sample) -> list[float]:
    """Score regions by their second corner, so that the one at (60, 60) is best."""
    return sample.images[0].boxes[:, 2].tolist()


def task(score=last_is_best) -> tuple[RefcocoTask, ShowingFamily]:
    shown = ShowingFamily(score=score)
    return RefcocoTask(make_data("refcoco", EXAMPLES, PICTURES), make_reader(shown, PICTURES)), shown


def test_scored_on_detected_and_on_annotated_boxes(model: nn.Module) -> None:
    ours, _ = task()
    found = ours.evaluate(model, batch=2)
    assert found.predictions.tolist() == [1, 1, 0]
    assert found.scores.tolist() == [1, 0, 0]  # b: 8 x 10 of 100 and 180, and the convention is (7+1)(9+1) of these
    assert found.figures == {"ground-truth boxes": pytest.approx(2 / 3)}


def test_loss_is_summed_over_examples_on_annotated_boxes(model: nn.Module) -> None:
    shown = ShowingFamily(score=last_is_best)
    training = RefcocoTraining(make_data("refcoco", EXAMPLES, PICTURES), make_reader(shown, PICTURES))
    loss = training.loss(model, training.batch([0, 1, 2], torch.Generator()))
    by_hand = -torch.tensor([61.0, 9.0]).log_softmax(0).sum() - 0.0
    assert loss.item() == pytest.approx(by_hand.item())
    assert [len(sample.images[0].boxes) for sample in shown.batches[0]] == [2, 2, 1]


def test_submission_is_the_official_dump(model: nn.Module) -> None:
    ours, shown = task()
    rows = json.loads(ours.submission(lambda inputs: shown.logits(model, inputs), batch=3))
    assert rows[0] == {"sent_id": 7, "pred_box": [40.0, 40.0, 20.0, 20.0], "tgt_box": [41, 41, 20, 20]}
    assert [row["sent_id"] for row in rows] == [7, 8, 9]


def test_hidden_boxes_are_known_to_be() -> None:
    hidden = [ReferringExample(7, "a", "the red cube", (0, 0, 0, 0), HIDDEN)]
    data = make_data("refcoco", hidden, PICTURES)
    assert RefcocoTask(data, make_reader(ShowingFamily(), PICTURES)).hidden
    assert not task()[0].hidden


@pytest.mark.parametrize(("height", "hit"), [(5, 0), (6, 1)])
def test_a_region_hits_where_it_overlaps_by_more_than_half(height: int, hit: int) -> None:
    targets = {"boxes": torch.tensor([[[0.0, 0, 10, height], [50, 50, 5, 5]]]), "box": torch.tensor([[0.0, 0, 10, 10]])}
    right, chosen = task()[0].judge(torch.tensor([[1.0, 0.0]]), targets)
    assert (right.tolist(), chosen.tolist()) == ([hit], [0])


def test_the_best_place_for_all_expressions_is_what_a_model_that_does_not_look_scores() -> None:
    """Detected: a's first box meets the second expression's (9 x 9 of 10 x 10); no other place meets more than one."""
    assert task()[0].constant() == pytest.approx(1 / 3)

"""Detection and segmentation on built-in scenes: what is known is placed and read back, and both can be learnt."""

import numpy as np
import pytest
import torch

from vlcompress.data.scenes.located import BACKGROUND, CLASSES, HEIGHT, WIDTH, located
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.models.resnet.dense import BOX
from vlcompress.tasks.detection import DetectionTask, _placed, decoded
from vlcompress.tasks.segmentation import SegmentationTask
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import evaluate, train

FAMILY = ResnetFamily()
CONFIG = FAMILY.config("mini")
PICTURES = located("test", 3)
HYPER = Hyperparameters(
    steps=30, batch=3, learning_rate=1e-2, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0, optimizer="adamw"
)


def test_boxes_are_around_the_pixels_of_things() -> None:
    assert located("test", 3) is PICTURES
    assert not np.array_equal(located("train", 1)[0].image, PICTURES[0].image)
    for one in PICTURES:
        assert one.image.shape == (HEIGHT, WIDTH, 3)
        for (x1, y1, x2, y2), label in zip(one.boxes.astype(int), one.classes, strict=True):
            inside = one.pixels[y1:y2, x1:x2]
            assert (inside == label).any(axis=0)[[0, -1]].all()
            assert (inside == label).any(axis=1)[[0, -1]].all()
        covered = sum(int((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in one.boxes)
        assert 0.3 * covered < (one.pixels != BACKGROUND).sum() <= covered


def test_what_is_placed_in_cells_is_read_back() -> None:
    one = PICTURES[0]
    row, column, wanted = _placed(torch.from_numpy(one.boxes), (12, 16))
    cells = torch.full((12, 16, BOX + len(CLASSES)), -9.0)
    cells[row, column, 0] = 9
    cells[row, column, 1:BOX] = wanted
    cells[row, column, BOX + torch.from_numpy(one.classes)] = 9
    found = decoded(cells)
    sure = (found.scores > 0.5).nonzero()[:, 0]
    order = torch.argsort(row * 16 + column)
    assert torch.allclose(found.corners[sure], torch.from_numpy(one.boxes)[order], atol=1e-4)
    assert found.classes[sure].tolist() == one.classes[order.numpy()].tolist()


@pytest.mark.parametrize(("kind", "least"), [(DetectionTask, 0.4), (SegmentationTask, 0.6)])
def test_it_can_be_learnt_and_scored_class_by_class(kind: type[DetectionTask | SegmentationTask], least: float) -> None:
    task = kind(PICTURES, FAMILY)
    model = FAMILY.build(CONFIG, task.head, seed=0)
    before = evaluate(model, task)
    train(model, task, HYPER, seed=0)
    after = evaluate(model, task)
    assert after.mean > least > 2 * before.mean
    assert ((after.scores >= 0) & (after.scores <= 1)).all()
    assert len(after.scores) <= len(task.head.labels)
    for value in after.figures.values():
        assert 0 <= value <= 1

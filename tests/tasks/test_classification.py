"""Classification: the loss and the score by hand, and an augmentation that depends on its generator alone."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vlcompress.data.examples import ClassExample, Pictures, TaskData
from vlcompress.data.tokenizer import SPECIAL_TOKENS, WordPiece
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.tasks.classification import ClassificationTask, ClassificationTraining, augmented
from vlcompress.tasks.preprocessing import Preprocessor

FAMILY = ResnetFamily()


class Ramp:
    """Pictures of 16 pixels in which no two pixels and no two pictures are alike."""

    feature_dim = 0

    def pixels(self, image: str) -> NDArray[np.uint8]:
        return (np.arange(16 * 16 * 3).reshape(16, 16, 3) // 4 + int(image)).astype(np.uint8)


def _data(label: int = 1) -> TaskData[ClassExample]:
    examples = tuple(ClassExample(index, str(index), (index + label) % 3) for index in range(4))
    return TaskData("classification", ("train",), examples, cast(Pictures, Ramp()), ("a", "b", "c"), None, "0" * 64)


def _task(kind: type[ClassificationTask]) -> ClassificationTask:
    return kind(_data(), Preprocessor(FAMILY, WordPiece(SPECIAL_TOKENS), cast(Pictures, Ramp()), 0))


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_loss_and_score_by_hand() -> None:
    task = _task(ClassificationTask)
    model = FAMILY.build(FAMILY.config("tiny"), task.head, seed=0).eval()
    batch = task.batch([0, 2, 3], _rng(0))
    assert batch.targets["class"].tolist() == [1, 0, 1]
    with torch.no_grad():
        logits = FAMILY.logits(model, batch.inputs)
        expected = -logits.log_softmax(1)[torch.arange(3), batch.targets["class"]].mean()
        torch.testing.assert_close(task.loss(model, batch), expected)
    scores, best = task.judge(torch.tensor([[0.0, 2, 1], [0, 2, 1], [0, 1, 2]]), batch.targets)
    assert scores.tolist() == [1, 0, 0]
    assert best.tolist() == [1, 1, 2]


def test_scoring_shows_the_pictures_as_they_are_and_training_does_not() -> None:
    scored, trained = _task(ClassificationTask), _task(ClassificationTraining)
    plain = [scored.batch([0, 1], _rng(seed)).inputs["pixel_values"] for seed in (1, 2)]
    moved = [trained.batch([0, 1], _rng(seed)).inputs["pixel_values"] for seed in (1, 1, 2)]
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])
    assert torch.equal(trained.batch([0, 1], _rng(1)).targets["class"], scored.batch([0, 1], _rng(1)).targets["class"])


def test_augmentation_is_a_crop_of_the_padded_picture_or_its_mirror() -> None:
    image = Ramp().pixels("0")
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    crops = {
        crop.tobytes(): (top, left, flip)
        for top in range(5)
        for left in range(5)
        for flip, crop in enumerate((padded[top : top + 16, left : left + 16],) * 2)
        for crop in (crop[:, ::-1] if flip else crop,)
    }
    seen = {crops[augmented(image, _rng(seed)).tobytes()] for seed in range(300)}
    assert len(seen) == 50  # every place and both sides


@pytest.mark.parametrize("label", [0, 2])
def test_hidden_labels_are_told(label: int) -> None:
    def hidden(data: TaskData[Any]) -> bool:
        return ClassificationTask(
            data, Preprocessor(FAMILY, WordPiece(SPECIAL_TOKENS), cast(Pictures, Ramp()), 0)
        ).hidden

    assert not hidden(_data(label))
    examples = (*_data(label).examples, ClassExample(9, "9", -1))
    assert hidden(TaskData("classification", ("test",), examples, cast(Pictures, Ramp()), ("a", "b"), None, "0" * 64))

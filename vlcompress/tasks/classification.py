"""Image classification: one class a picture; the metric is accuracy.

Shapes: B batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlcompress.data.examples import HIDDEN, TaskData
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Answer, LogitLoss, PerExampleTask, commonest
from vlcompress.tasks.preprocessing import NO_TEXT, Pixels, Preprocessor
from vlcompress.tasks.submission import json_rows


class ClassificationTask(LogitLoss, PerExampleTask):
    """Pictures of some splits, as they are."""

    metric = "accuracy"

    def __init__(self, data: TaskData[Any], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor)
        self.head = Head("classes", data.labels)

    @property
    def hidden(self) -> bool:
        """Whether an example has no published class."""
        return any(example.label == HIDDEN for example in self._examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these pictures; `rng` is not used. Targets: "class" int64 [B]."""
        return self._batch(indices, [self._pixels(index) for index in indices])

    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the mean cross entropy."""
        return cross_entropy(logits, targets["class"])

    def constant(self) -> float:
        """Compute the share of the commonest right answer."""
        return commonest(example.label for example in self._examples)

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score 1 for each right class, and name the class."""
        best_B = logits.argmax(dim=1)
        return (best_B == targets["class"]).float(), best_B

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write predictions as [{"image", "class"}]; these data sets have no evaluation server."""
        best = self.measure(answer, batch=batch).predictions.tolist()
        rows = ((example.image, self.head.labels[row]) for example, row in zip(self._examples, best, strict=True))
        return json_rows(("image", "class"), rows)

    def _pixels(self, index: int) -> Pixels:
        image = self._preprocessor.image(self._examples[index].image)
        assert isinstance(image, np.ndarray)
        return image

    def _batch(self, indices: Sequence[int], images: Sequence[Pixels]) -> Batch:
        samples = [self._preprocessor.sample(NO_TEXT, image) for image in images]
        labels = [self._examples[index].label for index in indices]
        return Batch(self._preprocessor.batch(samples), {"class": torch.tensor(labels)})


class ClassificationTraining(ClassificationTask):
    """Pictures to learn from, each moved and perhaps mirrored anew every time it is shown."""

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these pictures; `rng` moves and mirrors them. Targets: "class" int64 [B]."""
        return self._batch(indices, [augmented(self._pixels(index), rng) for index in indices])


def augmented(image: Pixels, rng: torch.Generator) -> Pixels:
    """Move a picture by up to an eighth of its sides, black coming in, and mirror every second one.

    On CIFAR's 32 pixels this is the usual augmentation, which paper c's code uses too: 4 pixels of black all around, a
    crop of the old size from any place, a horizontal flip with chance one half.

    Args:
        image: uint8 [height, width, 3].
        rng: the only source of chance.
    """
    down, across = image.shape[0] // 8, image.shape[1] // 8
    top, left, flip = (int(torch.randint(end, (), generator=rng)) for end in (2 * down + 1, 2 * across + 1, 2))
    padded = np.pad(image, ((down, down), (across, across), (0, 0)))
    moved = padded[top : top + image.shape[0], left : left + image.shape[1]]
    return moved[:, ::-1] if flip else moved

"""Image classification: one class a picture; the metric is accuracy.

Shapes: B batch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.data.examples import HIDDEN, ClassExample, TaskData
from vlcompress.models.base import Head
from vlcompress.tasks.base import Answer, Batch, EachJudged
from vlcompress.tasks.reading import Reader
from vlcompress.tasks.submission import json_rows

_NO_TEXT = np.zeros(0, dtype=np.int64)


class ClassificationTask(EachJudged):
    """Pictures of some splits."""

    metric = "accuracy"

    def __init__(self, data: TaskData[ClassExample], reader: Reader) -> None:
        super().__init__(reader.family)
        self.head = Head("classes", data.labels)
        self._examples = data.examples
        self._reader = reader

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def hidden(self) -> bool:
        """Whether an example has no published class."""
        return any(example.label == HIDDEN for example in self._examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these pictures; `rng` is not used. Targets: "class" int64 [B]."""
        examples = [self._examples[index] for index in indices]
        samples = [self._reader.sample(_NO_TEXT, self._reader.image(example.image)) for example in examples]
        return Batch(self._reader.batch(samples), {"class": torch.tensor([example.label for example in examples])})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give the mean cross entropy."""
        return cross_entropy(self.family.logits(model, batch.inputs), batch.targets["class"])

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Give 1 for each right class, and the class."""
        best_B = logits.argmax(dim=1)
        return (best_B == targets["class"]).float(), best_B

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Give predictions as [{"image", "class"}]; these data sets have no evaluation server."""
        best = self.measure(answer, batch=batch).predictions.tolist()
        rows = ((example.image, self.head.labels[row]) for example, row in zip(self._examples, best, strict=True))
        return json_rows(("image", "class"), rows)

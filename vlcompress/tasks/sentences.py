"""Sentence classification: one class a sentence; the metric is accuracy."""

from collections.abc import Sequence

import torch

from vlcompress.data.examples import SentenceExample, TaskData
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Answer
from vlcompress.tasks.classification import ClassificationTask
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import json_rows


class SentencesTask(ClassificationTask):
    """Sentences of some splits, scored as pictures with classes are."""

    def __init__(self, data: TaskData[SentenceExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor)
        self._ids = preprocessor.ids([example.text for example in data.examples])

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these sentences; `rng` is not used. Targets: "class" int64 [B]."""
        samples = [self._preprocessor.sample(self._ids[index]) for index in indices]
        labels = [self._examples[index].label for index in indices]
        return Batch(self._preprocessor.batch(samples), {"class": torch.tensor(labels)})

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write predictions as [{"class", "id"}]; these data sets have no evaluation server."""
        best = self.measure(answer, batch=batch).predictions.tolist()
        rows = ((example.id, self.head.labels[row]) for example, row in zip(self._examples, best, strict=True))
        return json_rows(("id", "class"), rows)

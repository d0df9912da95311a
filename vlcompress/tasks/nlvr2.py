"""NLVR2: is a statement about two pictures true; the metric is accuracy, and consistency is told beside it.

Shapes: B batch.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlcompress.data.examples import HIDDEN, PairExample, TaskData
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Answer, LogitLoss, PerExampleTask, Scores, commonest
from vlcompress.tasks.metrics.nlvr2 import consistency
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import csv_rows


class Nlvr2Task(LogitLoss, PerExampleTask):
    """Statements of some splits."""

    metric = "NLVR2 accuracy"
    head = Head("pair", ("False", "True"))

    def __init__(self, data: TaskData[PairExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor)
        self._ids = preprocessor.ids([example.text for example in data.examples])

    @property
    def hidden(self) -> bool:
        """Whether an example has no published label."""
        return any(example.label == HIDDEN for example in self._examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these statements; `rng` is not used.

        Targets: "true" int64 [B], 1 where the statement holds.
        """
        examples = [self._examples[index] for index in indices]
        samples = [
            self._preprocessor.sample(self._ids[index], *map(self._preprocessor.image, example.images))
            for index, example in zip(indices, examples, strict=True)
        ]
        return Batch(self._preprocessor.batch(samples), {"true": torch.tensor([example.label for example in examples])})

    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the mean cross entropy (airsplay/lxmert, ChenRocks/UNITER and dandelin/ViLT alike)."""
        return cross_entropy(logits, targets["true"])

    def constant(self) -> float:
        """Compute the share of the commonest right answer."""
        return commonest(example.label for example in self._examples)

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score 1 for each right example, and predict 1 for each statement that is said to be true."""
        said_B = logits.argmax(dim=1)
        return (said_B == targets["true"]).float(), said_B

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every statement; predictions are 1 for true."""
        scores = super().measure(answer, batch=batch)
        right = (scores.scores == 1).tolist()
        groups = [example.group for example in self._examples]
        return dataclasses.replace(scores, figures={"consistency": consistency(right, groups)})

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write NLVR2's result file: a line "identifier,True" or "identifier,False" each."""
        said = super().measure(answer, batch=batch).predictions.tolist()
        return csv_rows((example.id, bool(one)) for example, one in zip(self._examples, said, strict=True))

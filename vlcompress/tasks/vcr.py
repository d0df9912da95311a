"""VCR: answer a question about people in a picture (Q→A) and say why (QA→R); the metric is both right (Q→AR).

Each choice is a sample of its own that the head judges right or wrong; the choice judged rightest is taken. Sentences
are built as in ChenRocks/UNITER ``data/vcr.py``: [CLS] question [SEP] choice [SEP], and for a rationale [CLS] question
[SEP] answer [SEP] rationale [SEP], with segments 0, 2 and 3. Regions are the annotated boxes, then the
detector's, as far as the data has them.

Shapes: B batch, C choices.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlcompress.data.examples import HIDDEN, ChoiceExample, TaskData, Words
from vlcompress.data.people import ANSWER, QUESTION, RATIONALE, runs
from vlcompress.data.regions import Regions
from vlcompress.models.base import Head, Sample
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Answer, LogitLoss, PerExampleTask, Scores, commonest, finite
from vlcompress.tasks.metrics.vcr import CHOICES, vcr_correct
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import csv_rows

HEAD = Head("choice", ("wrong", "right"))
HEADER = (
    "annot_id",
    *(f"answer_{choice}" for choice in range(CHOICES)),
    *(f"rationale_conditioned_on_a{answer}_{choice}" for answer in range(CHOICES) for choice in range(CHOICES)),
)
"""Columns of the leaderboard's CSV (rowanz/r2c)."""


class Sentences:
    """The samples of an example: one for each choice.

    Args:
        data: the examples.
        preprocessor: makes samples of them.

    Regions are of the kinds that the data has: of annotated boxes, the detector's, or both, as officially.
    """

    def __init__(self, data: TaskData[ChoiceExample], preprocessor: Preprocessor) -> None:
        self.examples = data.examples
        kinds = (True, False)
        has = preprocessor.pictures.has_regions
        self._kinds = [kind for kind in kinds if any(has(one.image, ground_truth=kind) for one in data.examples)]
        self.preprocessor = preprocessor
        self._known: dict[str, list[int]] = {}
        preprocessor.vocabulary.check_covers([_plain(one.question, one.objects) for one in data.examples])

    def answers(self, index: int) -> list[Sample]:
        """Make the four samples of Q→A."""
        example = self.examples[index]
        image, question = self._regions(example.image), self._pieces(example.question, example.objects)
        return [
            self._sample(image, (question, QUESTION), (self._pieces(words, example.objects), ANSWER))
            for words in example.answers
        ]

    def rationales(self, index: int, answer: int) -> list[Sample]:
        """Make the four samples of QA→R, given an answer."""
        example = self.examples[index]
        image, question = self._regions(example.image), self._pieces(example.question, example.objects)
        given = self._pieces(example.answers[answer], example.objects)
        reasons = [self._pieces(words, example.objects) for words in _given(example.rationales, answer)]
        return [self._sample(image, (question, QUESTION), (given, ANSWER), (one, RATIONALE)) for one in reasons]

    def _sample(self, image: Regions, *parts: tuple[list[int], int]) -> Sample:
        ids_T, types_T = self.preprocessor.vocabulary.joined(parts, self.preprocessor.most)
        return self.preprocessor.sample(ids_T, image, types_T=types_T)

    def _pieces(self, words: Words, objects: Sequence[str]) -> list[int]:
        """Make token ids of words in pieces, people as ids of their own, other objects by the name of their class."""
        return [piece for run in runs(words, objects) for piece in self._run(run)]

    def _run(self, run: str | int) -> list[int]:
        if isinstance(run, int):
            return [self.preprocessor.vocabulary.vocab_size + run]
        if run not in self._known:
            self._known[run] = self.preprocessor.vocabulary.encode([run], self.preprocessor.most)[0, 1:-1].tolist()
        return self._known[run]

    def _regions(self, name: str) -> Regions:
        kinds = [self.preprocessor.image(name, ground_truth=kind) for kind in self._kinds]
        return _joined([one for one in kinds if isinstance(one, Regions)])


class VcrTraining(LogitLoss):
    """Every example twice: its answers to choose from, then its rationales given the right answer."""

    head = HEAD

    def __init__(self, data: TaskData[ChoiceExample], preprocessor: Preprocessor) -> None:
        self.family = preprocessor.family
        self._sentences = Sentences(data, preprocessor)
        self._examples = data.examples

    def __len__(self) -> int:
        return 2 * len(self._examples)

    @property
    def hidden(self) -> bool:
        """Whether an example has no published answer."""
        return any(HIDDEN in (example.answer, example.rationale) for example in self._examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch of four samples for each index; `rng` is not used. Targets: "right" int64 [4B]."""
        samples: list[Sample] = []
        right: list[int] = []
        for index in indices:
            of_rationale, number = divmod(index, len(self._examples))
            example = self._examples[number]
            chosen = self._sentences.rationales(number, example.answer) if of_rationale else None
            samples += chosen or self._sentences.answers(number)
            right.append(example.rationale if of_rationale else example.answer)
        right_BC = torch.nn.functional.one_hot(torch.tensor(right), CHOICES)
        return Batch(self._sentences.preprocessor.batch(samples), {"right": right_BC.flatten()})

    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the mean cross entropy of wrong and right over all choices (ChenRocks/UNITER)."""
        return cross_entropy(logits, targets["right"])


class VcrTask(PerExampleTask):
    """Examples to be scored: the answers, and the rationales given the right answer."""

    metric = "VCR Q→AR accuracy"
    head = HEAD

    def __init__(self, data: TaskData[ChoiceExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor)
        self._sentences = Sentences(data, preprocessor)

    @property
    def hidden(self) -> bool:
        """Whether an example has no published answer."""
        return any(HIDDEN in (example.answer, example.rationale) for example in self._examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch of eight samples for each index; `rng` is not used.

        Where the answer is hidden, the rationales are those given the first answer. Targets: "answer", "rationale"
        int64 [B].
        """
        chosen = [self._examples[index] for index in indices]
        samples: list[Sample] = []
        for index, example in zip(indices, chosen, strict=True):
            samples += self._sentences.answers(index)
            samples += self._sentences.rationales(index, max(example.answer, 0))
        targets = {name: torch.tensor([getattr(one, name) for one in chosen]) for name in ("answer", "rationale")}
        return Batch(self._sentences.preprocessor.batch(samples), targets)

    def constant(self) -> float:
        """Compute the share of the commonest right answer."""
        return commonest((example.answer, example.rationale) for example in self._examples)

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score 1 where answer and rationale are right; the prediction is 4 x the answer + the rationale chosen."""
        scores = logits[:, 1].reshape(-1, 2 * CHOICES)
        both = vcr_correct(scores, targets["answer"], targets["rationale"]).both
        return both.float(), CHOICES * scores[:, :CHOICES].argmax(dim=1) + scores[:, CHOICES:].argmax(dim=1)

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every example; for the predictions see `judge`."""
        scores = super().measure(answer, batch=batch)
        answers = torch.tensor([example.answer for example in self._examples])
        rationales = torch.tensor([example.rationale for example in self._examples])
        right = {"Q→A": scores.predictions // CHOICES == answers, "QA→R": scores.predictions % CHOICES == rationales}
        return dataclasses.replace(scores, figures={name: float(one.double().mean()) for name, one in right.items()})

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write the leaderboard's CSV: 20 scores a line, answers first, then rationales given each answer in turn."""
        return csv_rows(self._rows(answer, max(1, batch // 4)), header=HEADER)

    def _rows(self, answer: Answer, batch: int) -> Iterator[list[object]]:
        for start in range(0, len(self), batch):
            indices = range(start, min(start + batch, len(self)))
            samples: list[Sample] = []
            for index in indices:
                samples += self._sentences.answers(index)
                for given in range(CHOICES):
                    samples += self._sentences.rationales(index, given)
            logits = finite(answer(self._sentences.preprocessor.batch(samples)), indices, self.called)
            scores = logits[:, 1].reshape(len(indices), -1)
            for index, row in zip(indices, scores.tolist(), strict=True):
                yield [self._examples[index].id, *row]


def _given(rationales: Sequence[Words], answer: int) -> Sequence[Words]:
    return rationales if len(rationales) == CHOICES else rationales[CHOICES * answer : CHOICES * (answer + 1)]


def _plain(words: Words, objects: Sequence[str]) -> str:
    return " ".join(run for run in runs(words, objects) if isinstance(run, str))


def _joined(kinds: Sequence[Regions]) -> Regions:
    if len(kinds) == 1:
        return kinds[0]
    names = ("boxes", "features", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "soft_labels", "sizes")
    columns = {name: [getattr(one, name) for one in kinds] for name in names}
    arrays: dict[str, Any] = {
        name: None if any(array is None for array in column) else np.concatenate(column)
        for name, column in columns.items()
    }
    return dataclasses.replace(kinds[0], **arrays)

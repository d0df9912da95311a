"""Visual question answering: score a closed list of answers; the metric is VQA v2's soft score of the best one."""

import dataclasses
from statistics import fmean

from vlcompress.data.examples import AnswerExample, TaskData
from vlcompress.tasks.answering import ClosedAnswers
from vlcompress.tasks.base import Answer, Scores
from vlcompress.tasks.metrics.vqa import vqa_accuracy
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import json_rows


class VqaTask(ClosedAnswers):
    """Questions of some splits."""

    metric = "VQA soft score"

    def __init__(self, data: TaskData[AnswerExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor, data.labels, soft_targets(data))

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every question; "official accuracy" is there where the ten annotators' answers are published."""
        scores = super().measure(answer, batch=batch)
        votes = [question.votes for question in self._examples]
        if not all(votes):
            return scores
        said = (self.head.labels[index] for index in scores.predictions.tolist())
        official = fmean(vqa_accuracy(one, annotators) for one, annotators in zip(said, votes, strict=True))
        return dataclasses.replace(scores, figures={"official accuracy": official})

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write VQA's result file: [{"question_id", "answer"}]."""
        ids = (question.id for question in self._examples)
        return json_rows(("question_id", "answer"), zip(ids, self.best(answer, batch=batch), strict=True))


def soft_targets(data: TaskData[AnswerExample]) -> list[dict[int, float]]:
    """List each question's soft scores by the answers' indices; answers outside the list count for nothing."""
    index = {label: row for row, label in enumerate(data.labels)}
    return [
        {index[answer]: score for answer, score in question.answers.items() if answer in index}
        for question in data.examples
    ]

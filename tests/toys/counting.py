"""A task as one would add it: are there many things in a picture, or few; the metric is accuracy."""

from vlcompress.data.examples import AnswerExample, TaskData
from vlcompress.tasks.answering import ClosedAnswers
from vlcompress.tasks.base import Answer
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import json_rows
from vlcompress.tasks.vqa import soft_targets


class CountingTask(ClosedAnswers):
    """Questions of some splits."""

    metric = "counting accuracy"

    def __init__(self, data: TaskData[AnswerExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor, data.labels, soft_targets(data))
        self._numbers = [example.id for example in data.examples]

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Give predictions as [{"id", "answer"}]."""
        return json_rows(("id", "answer"), zip(self._numbers, self.best(answer, batch=batch), strict=True))

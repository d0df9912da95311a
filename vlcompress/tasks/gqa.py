"""GQA: a question about a real picture's scene graph, one answer of a closed list; the metric is exact match."""

from vlcompress.data.examples import AnswerExample, TaskData
from vlcompress.tasks.answering import ClosedAnswers
from vlcompress.tasks.base import Answer
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import json_rows
from vlcompress.tasks.vqa import soft_targets


class GqaTask(ClosedAnswers):
    """Questions of some splits; an answer is right if it is the annotated one to the letter."""

    metric = "GQA accuracy"

    def __init__(self, data: TaskData[AnswerExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor, data.labels, soft_targets(data))
        self._ids_of_questions = [question.id for question in data.examples]

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Return GQA's result file: [{"questionId", "prediction"}]."""
        answers = self.best(answer, batch=batch)
        return json_rows(("questionId", "prediction"), zip(map(str, self._ids_of_questions), answers, strict=True))

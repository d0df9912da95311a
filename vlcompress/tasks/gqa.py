"""GQA: a question about a real picture's scene graph, one answer of a closed list; the metric is exact match."""

from vlcompress.data.examples import AnswerExample, TaskData
from vlcompress.tasks.answering import ClosedAnswers, constant_score
from vlcompress.tasks.base import Answer, Scores
from vlcompress.tasks.metrics.gqa import gqa_figures
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import json_rows
from vlcompress.tasks.vqa import soft_targets


class GqaTask(ClosedAnswers):
    """Questions of some splits; an answer is right if it is the annotated one to the letter.

    Of a split with questions outside the balanced set only the balanced ones are scored, as officially.
    """

    metric = "GQA accuracy"

    def __init__(self, data: TaskData[AnswerExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor, data.labels, soft_targets(data))
        self._questions = {str(question.id): question for question in data.examples}
        self._counted = [row for row, one in enumerate(data.examples) if one.gqa is None or one.gqa.balanced]

    def constant(self) -> float:
        """Compute the share of the commonest answer among the questions that are scored."""
        return constant_score([self._targets[row] for row in self._counted])

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every balanced question; GQA's other figures are there where its own files are (`gqa_figures`)."""
        scores = super().measure(answer, batch=batch)
        said = (self.head.labels[index] for index in scores.predictions.tolist())
        figures = {} if self.hidden else gqa_figures(self._questions, dict(zip(self._questions, said, strict=True)))
        return Scores(scores.scores[self._counted], scores.predictions[self._counted], figures)

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write GQA's result file: [{"questionId", "prediction"}]."""
        answers = self.best(answer, batch=batch)
        return json_rows(("questionId", "prediction"), zip(self._questions, answers, strict=True))

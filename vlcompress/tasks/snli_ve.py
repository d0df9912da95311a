"""SNLI-VE: does a picture entail a sentence, contradict it, or neither; the metric is accuracy.

UNITER treats the three labels as a closed list of answers, with VQA's head and loss.
"""

from vlcompress.data.examples import ENTAILMENT_LABELS, HIDDEN, EntailmentExample, TaskData
from vlcompress.tasks.answering import ClosedAnswers
from vlcompress.tasks.base import Answer
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import json_rows


class SnliVeTask(ClosedAnswers):
    """Hypotheses of some splits."""

    metric = "SNLI-VE accuracy"

    def __init__(self, data: TaskData[EntailmentExample], preprocessor: Preprocessor) -> None:
        targets = [{} if example.label == HIDDEN else {example.label: 1.0} for example in data.examples]
        super().__init__(data, preprocessor, ENTAILMENT_LABELS, targets)

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write predictions as [{"pairID", "prediction"}]: there is no evaluation server and no official format."""
        ids = (example.id for example in self._examples)
        return json_rows(("pairID", "prediction"), zip(ids, self.best(answer, batch=batch), strict=True))

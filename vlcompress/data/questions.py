"""LXMERT's question files and answer list (`vqa/*.json` of the official data layout)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.documents import Row, check_id, parsed, read_document, read_rows, take
from vlcompress.data.examples import AnswerExample, Example, is_writable
from vlcompress.errors import VlcompressError

QuestionId = int | str
"""VQA counts its questions, GQA names them."""


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        label: answer to soft score in (0, 1]; empty where the answers are not published (test splits).
        answer_type: "yes/no", "number" or "other"; "" where the file does not say.
        question_type: the words the question begins with; "" where the file does not say.
    """

    question_id: QuestionId
    img_id: str
    sentence: str
    label: Mapping[str, float]
    answer_type: str = ""
    question_type: str = ""


@dataclass(frozen=True)
class Answers:
    """A closed list of answers: an answer's position is its label.

    Published lists hold the same answers in different orders, so the order belongs with every model's head.
    """

    labels: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "Answers":
        """Read `trainval_label2ans.json` and `trainval_ans2label.json` of a folder.

        Raises:
            VlcompressError: a file is missing or unreadable, the two do not agree.
        """
        path = folder / "trainval_label2ans.json"
        labels = read_document(path)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise VlcompressError(f"'{path}' does not hold a JSON list of answers: check its format")
        check_answer_list(path, labels)
        answers = cls(tuple(labels))
        other = folder / "trainval_ans2label.json"
        if read_document(other) != answers.index:
            raise VlcompressError(f"'{other}' does not say the same as '{path.name}': take both from one source")
        return answers

    @cached_property
    def index(self) -> dict[str, int]:
        """Each answer's label."""
        return {answer: label for label, answer in enumerate(self.labels)}

    def __len__(self) -> int:
        """Count the answers."""
        return len(self.labels)

    def __contains__(self, answer: object) -> bool:
        """Say whether the answer is in the list."""
        return answer in self.index

    def targets(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """Lay out soft scores, float32 [len(questions), len(self)]; answers outside the list count for nothing."""
        scores = np.zeros((len(questions), len(self)), dtype=np.float32)
        for row, question in zip(scores, questions, strict=True):
            for answer, score in question.label.items():
                if answer in self.index:
                    row[self.index[answer]] = score
        return scores


def check_answer_list(where: Path, labels: Sequence[str]) -> None:
    """Refuse a list with an answer twice: a model would be taught one copy, and be wrong with the other.

    Raises:
        VlcompressError: which answer, and where in the list; one that is no text, or that no file can be written with.
    """
    seen: dict[str, int] = {}
    for row, answer in enumerate(labels):
        if not isinstance(answer, str) or not is_writable(answer):
            raise VlcompressError(f"'{where}': answer {row} of the list, {answer!r}, is no text: mend the list")
        if seen.setdefault(answer, row) != row:
            raise VlcompressError(f"'{where}': the answer list has '{answer}' as {seen[answer]} and as {row}: keep one")


def unlisted(examples: Iterable[Example], labels: Sequence[str]) -> int:
    """Count the questions with published answers of which the list knows none.

    Officially they stay, with a score of 0 for every answer.
    """
    known = frozenset(labels)
    asked = [example for example in examples if isinstance(example, AnswerExample)]
    return sum(bool(one.answers or one.votes) and known.isdisjoint(one.answers) for one in asked)


def read_questions(path: Path) -> list[Question]:
    """Read a question file, in its order.

    Raises:
        VlcompressError: no such file, not JSON, a row without a needed value, a score outside (0, 1], an id used twice.
    """
    questions = parsed(path, read_rows(path), _question)
    seen: set[QuestionId] = set()
    for question in questions:
        if question.question_id in seen:
            raise VlcompressError(f"'{path}' has question {question.question_id} twice: every id must be used once")
        seen.add(question.question_id)
    return questions


def check_some_answer_known(path: Path, questions: Sequence[Question], answers: Answers) -> None:
    """Refuse a file of which the answer list knows nothing: it belongs to other questions.

    Raises:
        VlcompressError: there are labels, and not one is in the list.
    """
    named = [answer for question in questions for answer in question.label]
    if named and not any(answer in answers for answer in named):
        raise VlcompressError(
            f"'{path}': not one of its answers ('{named[0]}', ...) is among the {len(answers)} known answers: "
            "use the answer list made with these questions"
        )


def _question(path: Path, number: int, row: Row) -> Question:
    question_id, img_id, sentence = take(path, number, row, "question_id", "img_id", "sent")
    check_id(path, number, question_id, "question_id")
    label = row.get("label", {})
    if not isinstance(label, dict) or not all(isinstance(s, int | float) and 0 < s <= 1 for s in label.values()):
        raise VlcompressError(f"'{path}', row {number}: label {label!r} is not answers with scores above 0 and up to 1")
    return Question(question_id, img_id, sentence, label, row.get("answer_type", ""), row.get("question_type", ""))

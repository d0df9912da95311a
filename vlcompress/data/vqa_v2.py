"""Raw VQA v2 question and annotation files, and their conversion to LXMERT's question files.

Soft scores follow hengyuan-hu/bottom-up-attention-vqa, which made the label files that LXMERT publishes: an answer
given by 1, 2, 3 of the ten annotators scores 0.3, 0.6, 0.9, by more 1.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompress.data.answer_text import normalised
from vlcompress.data.documents import Row, as_rows, bad_row, check_id, parsed, read_document, take
from vlcompress.data.questions import Answers, Question
from vlcompress.errors import VlcompressError

Note = tuple[tuple[tuple[str, str], ...], str, str, str]
"""What a question's annotation says: answers with confidence, the commonest one, the answer's and question's type."""

_SCORES = (0.0, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class Annotated:
    """A VQA v2 question with what its annotators answered.

    Attributes:
        question_id, image_id: the data set's numbers.
        answers: one (answer, confidence) an annotator; confidence is "yes", "maybe" or "no".
        majority: the commonest answer.
    """

    question_id: int
    image_id: int
    sentence: str
    answers: tuple[tuple[str, str], ...]
    majority: str
    answer_type: str
    question_type: str


def soft_score(count: int) -> float:
    """Score an answer that `count` annotators gave, 0 to 1."""
    return _SCORES[count] if count < len(_SCORES) else 1.0


def soft_label(answers: Iterable[str], known: Answers) -> dict[str, float]:
    """Score the annotators' answers that are in the list, in order of first appearance."""
    return {answer: soft_score(count) for answer, count in Counter(answers).items() if answer in known}


def answer_list(annotated: Iterable[Annotated], minimum: int = 9) -> Answers:
    """Collect the majority answers that at least `minimum` questions have (the source uses 9), by first appearance.

    They are normalised first, as in dandelin/ViLT ``vilt/utils/write_vqa.py``; the annotators' are not there.
    """
    counts = Counter(normalised(question.majority) for question in annotated)
    return Answers(tuple(answer for answer, count in counts.items() if count >= minimum))


def to_lxmert(annotated: Sequence[Annotated], known: Answers, image_name: str) -> list[Question]:
    """Convert to LXMERT's questions.

    Args:
        annotated: the questions, whose order is kept.
        known: the answer list.
        image_name: pattern of the images' names, as "COCO_train2014_{:012d}".
    """
    return [
        Question(
            question.question_id,
            image_name.format(question.image_id),
            question.sentence,
            soft_label((answer for answer, _ in question.answers), known),
            question.answer_type,
            question.question_type,
        )
        for question in annotated
    ]


def read_vqa_v2(questions: Path, annotations: Path) -> list[Annotated]:
    """Read a question file and its annotation file, in the order of the questions.

    Raises:
        VlcompressError: a file is missing or not in the format, a question has no annotation.
    """
    notes = dict(parsed(annotations, _part(annotations, "annotations"), _note))
    return parsed(
        questions,
        _part(questions, "questions"),
        lambda path, number, row: _annotated(path, number, row, annotations, notes),
    )


def questions_document(annotated: Sequence[Annotated]) -> dict[str, Any]:
    """Lay out a VQA v2 question file."""
    rows = [{"image_id": q.image_id, "question": q.sentence, "question_id": q.question_id} for q in annotated]
    return {"questions": rows}


def annotations_document(annotated: Sequence[Annotated]) -> dict[str, Any]:
    """Lay out a VQA v2 annotation file."""
    return {"annotations": [_annotation(question) for question in annotated]}


def _part(path: Path, name: str) -> list[Row]:
    document = read_document(path)
    if not isinstance(document, dict) or name not in document:
        raise VlcompressError(f"'{path}' has no '{name}': give a VQA v2 {name} file")
    return as_rows(path, document[name])


def _annotated(path: Path, number: int, row: Row, annotations: Path, notes: Mapping[int, Note]) -> Annotated:
    question_id, image_id, sentence = take_question(path, number, row)
    if question_id not in notes:
        raise VlcompressError(
            f"'{annotations}' has no annotation of question {question_id}: give the file of the same split"
        )
    return Annotated(question_id, image_id, sentence, *notes[question_id])


def take_question(path: Path, number: int, row: Row) -> tuple[int, int, str]:
    """Take question_id, image_id and question of a row.

    Raises:
        VlcompressError: one is missing, an id is not a whole number.
    """
    question_id, image_id, sentence = take(path, number, row, "question_id", "image_id", "question")
    for name, value in (("question_id", question_id), ("image_id", image_id)):
        if not isinstance(value, int):
            raise bad_row(path, number, f"{name} {value!r} is not a whole number")
    return question_id, image_id, sentence


def _note(path: Path, number: int, row: Row) -> tuple[int, Note]:
    """Read a question's id, and what its annotators answered."""
    names = ("question_id", "answers", "multiple_choice_answer", "answer_type", "question_type")
    question_id, answers, majority, answer_type, question_type = take(path, number, row, *names)
    check_id(path, number, question_id, "question_id")
    pairs = tuple((str(answer["answer"]), str(answer["answer_confidence"])) for answer in answers)
    return question_id, (pairs, majority, answer_type, question_type)


def _annotation(question: Annotated) -> dict[str, Any]:
    return {
        "question_type": question.question_type,
        "multiple_choice_answer": question.majority,
        "answers": [
            {"answer": answer, "answer_confidence": confidence, "answer_id": number}
            for number, (answer, confidence) in enumerate(question.answers, start=1)
        ],
        "image_id": question.image_id,
        "answer_type": question.answer_type,
        "question_id": question.question_id,
    }

"""VQA v2's question and annotation files as examples: ``v2_OpenEnded_mscoco_{part}_questions.json`` and their notes.

An image's name is COCO's (``COCO_train2014_000000000109``). Label lists are UNITER's ``ans2label.json`` or LXMERT's
``trainval_label2ans.json`` where the folder has one, or else made of train and val: answers that nine questions have.
"""

from collections.abc import Sequence
from pathlib import Path

from vlcompress.data.documents import as_rows, check_unique, parsed, read_document
from vlcompress.data.examples import AnswerExample
from vlcompress.data.questions import Answers
from vlcompress.data.vqa_v2 import Annotated, answer_list, read_vqa_v2, soft_label, take_question
from vlcompress.errors import VlcompressError

PARTS = {
    "train": "train2014",
    "val": "val2014",
    "test": "test2015",
    "test-dev": "test-dev2015",
}
"""The files' name of each split; both test parts show pictures of test2015."""

PREFIXES = ("COCO_", "scenes_")
"""How images' names begin: COCO's own, and the built-in data's."""


def question_file(folder: Path, split: str) -> Path:
    """Name the question file of a split."""
    return folder / f"v2_OpenEnded_mscoco_{PARTS[split]}_questions.json"


def annotation_file(folder: Path, split: str) -> Path:
    """Name the annotation file of a split; test splits have none."""
    return folder / f"v2_mscoco_{PARTS[split]}_annotations.json"


def splits(folder: Path) -> tuple[str, ...]:
    """List the splits that the folder has."""
    return tuple(split for split in PARTS if question_file(folder, split).is_file())


def labels(folder: Path) -> tuple[str, ...]:
    """Read the folder's label list, or make it of train and val.

    Raises:
        VlcompressError: the list is not a numbering of answers, or no answer is common enough.
    """
    for name in ("ans2label.json", "trainval_ans2label.json"):
        if (folder / name).is_file():
            return numbered(folder / name, read_document(folder / name))
    known = [split for split in ("train", "val") if annotation_file(folder, split).is_file()]
    answers = answer_list(question for split in known for question in _annotated(folder, split)).labels
    if not answers:
        raise VlcompressError(
            f"'{folder}' has no answer that nine questions share, and no ans2label.json: add the list"
        )
    return answers


def numbered(path: Path, document: object) -> tuple[str, ...]:
    """Turn {answer: label} into the list of answers.

    Raises:
        VlcompressError: the labels are not 0, 1, 2, ... each once.
    """
    if isinstance(document, dict) and sorted(map(str, document.values())) == sorted(map(str, range(len(document)))):
        return tuple(sorted(document, key=lambda answer: document[answer]))
    raise VlcompressError(f"'{path}' does not number its answers 0, 1, 2, ... each once: give a whole answer list")


def read_split(folder: Path, split: str, answers: Sequence[str], prefix: str = PREFIXES[0]) -> list[AnswerExample]:
    """Read a split, in the order of the questions.

    Args:
        folder: where the files are.
        split: a key of `PARTS`.
        answers: the label list; others' scores are left away, as UNITER, LXMERT and ViLT do.
        prefix: how the images' names begin, one of `PREFIXES`.

    Raises:
        VlcompressError: a missing file, not in the format, an id used twice.
    """
    pattern = f"{prefix}{PARTS[split].replace('test-dev', 'test')}_{{:012d}}"
    listed = Answers(tuple(answers))
    if not annotation_file(folder, split).is_file():
        return [AnswerExample(number, pattern.format(image), text, {}) for number, image, text in _bare(folder, split)]
    annotated = _annotated(folder, split)
    check_unique(question_file(folder, split), (question.question_id for question in annotated), "question")
    return [_example(question, pattern.format(question.image_id), listed) for question in annotated]


def _example(question: Annotated, image: str, listed: Answers) -> AnswerExample:
    votes = tuple(answer for answer, _ in question.answers)
    label = soft_label(votes, listed)
    return AnswerExample(question.question_id, image, question.sentence, label, question.answer_type, votes)


def _annotated(folder: Path, split: str) -> list[Annotated]:
    return read_vqa_v2(question_file(folder, split), annotation_file(folder, split))


def _bare(folder: Path, split: str) -> list[tuple[int, int, str]]:
    path = question_file(folder, split)
    document = read_document(path)
    if not isinstance(document, dict) or "questions" not in document:
        raise VlcompressError(f"'{path}' has no 'questions': give a VQA v2 question file")
    rows = as_rows(path, document["questions"])
    bare = parsed(path, rows, take_question)
    check_unique(path, (question for question, _, _ in bare), "question")
    return bare

"""GQA's question files: ``{train,val,testdev}_balanced_questions.json``, an object of questions by id.

Splits ``testdev_all`` and ``val_all`` are ``{testdev,val}_all_questions.json``: accuracy counts the balanced questions
among them, the others tell how consistent the answers are. ``{split}_choices.json`` gives valid and plausible answers.

The image's name is its ``imageId`` ("2375429", "n250821"); the label is the one answer, with score 1. Label lists are
LXMERT's ``trainval_label2ans.json`` where the folder has it, or else made of the train and val files.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlcompress.data.documents import Row, parsed, read_document, take
from vlcompress.data.examples import AnswerExample, GqaFacts
from vlcompress.errors import VlcompressError

SPLITS = ("train", "val", "testdev", "val_all", "testdev_all", "test", "challenge", "submission")
_LABELLED = ("train", "val")


def question_file(folder: Path, split: str) -> Path:
    """Name the balanced question file of a split; those of train in ten parts are not read."""
    whole = folder / f"{split}_balanced_questions.json"
    known = whole.is_file() or split in ("train", "val", "testdev")
    return whole if known else folder / f"{split.removesuffix('_all')}_all_questions.json"


def choices_file(folder: Path, split: str) -> Path:
    """Name the file of valid and plausible answers; it need not be there."""
    return folder / f"{split.removesuffix('_all')}_choices.json"


def splits(folder: Path) -> tuple[str, ...]:
    """List the splits that the folder has."""
    return tuple(split for split in SPLITS if question_file(folder, split).is_file())


def read_split(folder: Path, split: str) -> list[AnswerExample]:
    """Read a split, in the order of the file; test files hide their answers.

    Raises:
        VlcompressError: no such file, not in the format.
    """
    path, choices = question_file(folder, split), choices_file(folder, split)
    known = dict(_rows(choices)) if choices.is_file() else {}
    rows = ({**row, **known.get(key, {}), "question_id": key} for key, row in _rows(path))
    return parsed(path, rows, _example)


def labels(folder: Path) -> tuple[str, ...]:
    """Make the answer list of train and val, by first appearance."""
    files = [question_file(folder, split) for split in _LABELLED if question_file(folder, split).is_file()]
    return tuple(dict.fromkeys(str(row["answer"]) for path in files for _, row in _rows(path) if "answer" in row))


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    document = read_document(path)
    if not isinstance(document, dict) or not all(isinstance(row, dict) for row in document.values()):
        raise VlcompressError(f"'{path}' does not hold an object of questions by id: give a GQA question file")
    yield from document.items()


def _example(path: Path, number: int, row: Row) -> AnswerExample:
    key, question, image = take(path, number, row, "question_id", "question", "imageId")
    answers = {row["answer"]: 1.0} if "answer" in row else {}
    kind = row.get("types", {}).get("structural", "")
    return AnswerExample(key, str(image), question, answers, kind, gqa=_facts(row))


def _facts(row: Row) -> GqaFacts:
    lists = {name: tuple(map(str, row.get(name) or ())) for name in ("entailed", "valid", "plausible")}
    return GqaFacts(
        balanced=row.get("isBalanced", True) is True,
        detailed=str(row.get("types", {}).get("detailed") or ""),
        group=str(row.get("groups", {}).get("global") or ""),
        **lists,
    )

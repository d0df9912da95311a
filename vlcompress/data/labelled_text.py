"""Labelled sentences, a file a split: FOLDER/{train,val,valid,dev,test}.{csv,tsv,jsonl}.

CSV and TSV begin with a line of names, JSONL has an object a line; "label" is the class, "text" or "sentence" what
is classified.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.documents import Row, bad_row, read_lines, read_text
from vlcompress.data.examples import SentenceExample
from vlcompress.data.found import Found, PicturesOnly
from vlcompress.errors import VlcompressError

NAME = "labelled text"
TASK = "sentences"
SPLITS = ("train", "val", "valid", "dev", "test")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (*_SEPARATORS, ".jsonl")
_TEXT = ("text", "sentence")
_LABEL = "label"


class NoPictures(PicturesOnly):
    """What sentences have; see `vlcompress.data.examples.Pictures`."""

    def has_pixels(self, image: str) -> bool:
        """Say no."""
        return False

    def picture_bytes(self, image: str) -> bytes:
        """Refuse; errors as of `pixels`."""
        raise VlcompressError(f"no picture '{image}': these data are sentences")

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Refuse."""
        raise VlcompressError(f"no picture '{image}': these data are sentences")


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits that the folder has; () for other tasks."""
    return tuple(split for split in SPLITS if _file(folder, split)) if task == TASK else ()


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; the labels are those of every split, in the order of the alphabet.

    Raises:
        VlcompressError: a damaged file, with its name and the row.
    """
    there = [split for split in SPLITS if _file(folder, split)]
    rows = {split: list(_sentences(_path(folder, split))) for split in there}
    labels = tuple(sorted({label for own in rows.values() for _, label in own}))
    row_of = {label: row for row, label in enumerate(labels)}
    examples = tuple(
        SentenceExample(f"{split}/{number}", text, row_of[label])
        for split in splits
        for number, (text, label) in enumerate(rows[split])
    )
    return Found(examples, NoPictures(), labels, tuple(_path(folder, split) for split in there))


def _file(folder: Path, split: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / f"{split}{suffix}").is_file()), None)


def _path(folder: Path, split: str) -> Path:
    path = _file(folder, split)
    assert path is not None
    return path


def _sentences(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(_rows(path), start=1):
        text = next((row[name] for name in _TEXT if name in row), None)
        label = row.get(_LABEL)
        if not isinstance(text, str) or not isinstance(label, str | int) or label == "":
            raise bad_row(
                path, number, f"it needs '{_LABEL}' and a text at {' or '.join(map(repr, _TEXT))}: {dict(row)}"
            )
        yield text, str(label)


def _rows(path: Path) -> Iterable[Row]:
    if path.suffix == ".jsonl":
        return read_lines(path)
    return csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=_SEPARATORS[path.suffix])

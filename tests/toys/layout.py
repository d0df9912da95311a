"""A data format as one would add it: FOLDER/counting/SPLIT.json, [{"image", "many"}], and SPLIT.tsv beside it."""

from collections.abc import Sequence
from pathlib import Path

from vlcompress.data.documents import Row, parsed, read_rows, take
from vlcompress.data.examples import AnswerExample
from vlcompress.data.found import Found
from vlcompress.data.pictures import FilePictures
from vlcompress.data.regions import region_file

NAME = "counting"
LABELS = ("few", "many")


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits of the one task."""
    return tuple(path.stem for path in sorted((folder / NAME).glob("*.json"))) if task == NAME else ()


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named."""
    paths = [folder / NAME / f"{split}.json" for split in splits]
    regions = [region_file(path.with_suffix(".tsv"), feature_dim) for path in paths]
    examples = tuple(example for path in paths for example in parsed(path, read_rows(path), _example))
    return Found(examples, FilePictures((), regions), LABELS, (*paths, *(file.path for file in regions)))


def _example(path: Path, number: int, row: Row) -> AnswerExample:
    image, many = take(path, number, row, "image", "many")
    return AnswerExample(number, image, "how many are there", {LABELS[bool(many)]: 1.0})

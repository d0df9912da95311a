"""NLVR2's JSONL files (github lil-lab/nlvr, ``nlvr2/data/{train,dev,test1}.json``, ``balanced/``, ``unbalanced/``)."""

from codecs import BOM_UTF8
from pathlib import Path

from vlcompress.data.documents import Row, bad_row, check_unique, parsed, read_lines, take
from vlcompress.data.examples import HIDDEN, PairExample
from vlcompress.errors import VlcompressError

FILES = {
    "train": "train.json",
    "dev": "dev.json",
    "test1": "test1.json",
    "test2": "test2.json",
    "balanced_dev": "balanced/balanced_dev.json",
    "balanced_test1": "balanced/balanced_test1.json",
    "unbalanced_dev": "unbalanced/unbalanced_dev.json",
    "unbalanced_test1": "unbalanced/unbalanced_test1.json",
}
LABELS = {"True": 1, "False": 0}


def annotations(folder: Path) -> Path:
    """Name the folder of the JSONL files: that of the published repository, or `folder` itself."""
    places = (folder / "nlvr2" / "data", folder / "data")
    return next((place for place in places if place.is_dir()), folder)


def question_file(folder: Path, split: str) -> Path:
    """Name the file of a split."""
    return annotations(folder) / FILES[split]


def splits(folder: Path) -> tuple[str, ...]:
    """List the splits that the folder has; LXMERT's JSON lists of the same names are not meant."""
    return tuple(split for split in FILES if is_jsonl(question_file(folder, split)))


def read_split(folder: Path, split: str) -> list[PairExample]:
    """Read a split, in the order of the file.

    Raises:
        VlcompressError: a line that is not in the format, an identifier used twice.
    """
    path = question_file(folder, split)
    examples = parsed(path, read_lines(path), pair)
    check_unique(path, (example.id for example in examples), "identifier")
    return examples


def pair(path: Path, number: int, row: Row) -> PairExample:
    """Turn a row of the published file into an example; the label is HIDDEN where there is none."""
    identifier, text = take(path, number, row, "identifier", "sentence")
    label = row.get("label")
    if label is not None and label not in LABELS:
        raise bad_row(path, number, f"label {label!r} is neither 'True' nor 'False'")
    images, group = image_names(path, number, identifier)
    return PairExample(identifier, images, text, HIDDEN if label is None else LABELS[label], group)


def image_names(path: Path, number: int, identifier: str) -> tuple[tuple[str, str], str]:
    """Name the two images of ``split-set-pair-sentence``, and ``split-set-sentence``.

    Raises:
        VlcompressError: the identifier does not have four parts.
    """
    parts = str(identifier).split("-")
    if len(parts) != 4:
        raise bad_row(path, number, f"identifier '{identifier}' is not split-set-pair-sentence")
    stem = "-".join(parts[:3])
    return (f"{stem}-img0", f"{stem}-img1"), "-".join((parts[0], parts[1], parts[3]))


def is_jsonl(path: Path) -> bool:
    """Say whether a file is there and holds objects, where LXMERT's of the same name holds a list."""
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(BOM_UTF8).lstrip().startswith(b"{")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise VlcompressError(f"'{path}' cannot be read ({error})") from error

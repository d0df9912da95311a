"""Tables of sentences, pictures or captions, a row an example: CSV, TSV, JSONL, Parquet, and what `datasets` saves.

    FOLDER/SPLIT.{csv,tsv,jsonl,parquet}, SPLIT-*.parquet, SPLIT/*.parquet      also in FOLDER/data/
    FOLDER/SPLIT/metadata.{csv,jsonl,parquet}                                   beside pictures (imagefolder)
    FOLDER/SPLIT/data-*.arrow                                                   `Dataset.save_to_disk`

sentences: "text" or "sentence", and "label". classification: a picture and "label". retrieval: a picture and
"caption", "captions" or "text", one or a list. A picture is "image" or "file_name": a path below the table's folder or
FOLDER, or in Parquet and Arrow the file's bytes, alone or as `datasets` keeps them. Labels that are numbers go by their
names where a table has these (ClassLabel); others of them, -1 say, are hidden there.
"""

import hashlib
import os.path
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompress.data.class_folders import FolderPictures
from vlcompress.data.documents import Row, bad_row
from vlcompress.data.examples import HIDDEN, CaptionExample, ClassExample, Example, SentenceExample
from vlcompress.data.found import Found
from vlcompress.data.table_files import SUFFIXES, Table, open_table
from vlcompress.errors import VlcompressError

NAME = "tables"
SPLITS = ("train", "val", "valid", "validation", "dev", "test")
_ONE, _SEVERAL = ("{}.*", "{}/metadata.*"), ("{}-*.parquet", "{}/*.parquet", "{}/data-*.arrow")
_PICTURE, _LABEL = ("image", "file_name"), "label"
_TEXT, _CAPTION = ("text", "sentence"), ("caption", "captions", "text")
_COLUMNS = {"sentences": (_TEXT, (_LABEL,)), "classification": (_PICTURE, (_LABEL,)), "retrieval": (_PICTURE, _CAPTION)}


@dataclass(frozen=True)
class Cell:
    """Where a row is, and what it holds of the columns that its task reads."""

    table: Table
    group: int
    place: int
    number: int
    row: Row

    def value(self, names: Sequence[str]) -> Any:
        """Take the value of the first of these columns that the table has."""
        return self.row.get(self.table.first(names))

    def bad(self, needed: str) -> VlcompressError:
        """Make the error for a row that lacks what is needed."""
        shown = {name: "..." if isinstance(value, bytes | Mapping) else value for name, value in self.row.items()}
        return bad_row(self.table.path, self.number, f"it needs {needed}: {shown}")


class TablePictures(FolderPictures):
    """Pictures inside tables, or beside them; see `vlcompress.data.examples.Pictures`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._cells: dict[str, Cell] = {}
        self._seen: dict[bytes, str] = {}

    def name(self, name: str, cell: Cell) -> str:
        """Name the picture of a row, and keep where it is; one of the same bytes keeps the name that it has.

        Raises:
            VlcompressError: neither bytes nor a path, or one that leads out of the folder.
        """
        value, data = cell.value(_PICTURE), _bytes_in(cell.value(_PICTURE))
        if data is None:
            return self._beside(value.get("path") if isinstance(value, Mapping) else value, cell)
        name = self._seen.setdefault(hashlib.sha256(data).digest(), name)
        self._cells.setdefault(name, Cell(cell.table, cell.group, cell.place, cell.number, {}))
        return name

    def has_pixels(self, image: str) -> bool:
        """Say whether there is a picture."""
        return image in self._cells or super().has_pixels(image)

    def picture_bytes(self, image: str) -> bytes:
        """Read the picture's file as it is; errors as of `pixels`."""
        cell = self._cells.get(image)
        if cell is None:
            return super().picture_bytes(image)
        path, column = cell.table.path, cell.table.first(_PICTURE)
        return _pictures_of(path, path.stat().st_mtime_ns, cell.group, column)[cell.place]

    def _beside(self, path: object, cell: Cell) -> str:
        if not isinstance(path, str) or not path:
            raise cell.bad(f"a picture at {_spelled(_PICTURE)}, its bytes or a path")
        near = cell.table.path.parent / path
        place = os.path.relpath(near if near.is_file() else self.folder / path, self.folder)
        if os.path.isabs(path) or place.startswith(".."):
            raise cell.bad(f"a picture below '{self.folder}'")
        return Path(place).as_posix()


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits that the folder has of a task, by the columns of their tables.

    Raises:
        VlcompressError: a damaged table, or the package for its format is not installed.
    """
    if task not in _COLUMNS:
        return ()
    firsts = {split: paths[0] for split in SPLITS if (paths := _files(folder, split))}
    return tuple(split for split, path in firsts.items() if _is_of(open_table(path), task))


def open_splits(folder: Path, task: str, names: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits; the labels are those of every split, in the order of the alphabet. `feature_dim` says nothing here.

    Raises:
        VlcompressError: a damaged file, with its name and the row; a picture outside the folder.
    """
    tables = {split: [open_table(path) for path in _files(folder, split)] for split in splits(folder, task)}
    labels: tuple[str, ...] = ()
    if task != "retrieval":
        cells = (cell for every in tables.values() for cell in _cells(every, ((_LABEL,),)))
        labels = tuple(sorted({label for cell in cells if (label := _label(cell)) is not None}))
    pictures, examples = TablePictures(folder), list[Example]()
    for split in names:
        for number, cell in enumerate(_cells(tables[split], _COLUMNS[task])):
            examples += _MAKERS[task](f"{split}/{number}", cell, labels, pictures)
    beside = (folder / name for one in examples if (name := getattr(one, "image", "")))
    files = (table.path for every in tables.values() for table in every)
    return Found(tuple(examples), pictures, labels, (*files, *(path for path in beside if path.is_file())))


def _sentence(key: str, cell: Cell, labels: tuple[str, ...], pictures: TablePictures) -> list[Example]:
    text = cell.value(_TEXT)
    if not isinstance(text, str):
        raise cell.bad(f"a text at {_spelled(_TEXT)}")
    return [SentenceExample(key, text, _row_of(cell, labels))]


def _class(key: str, cell: Cell, labels: tuple[str, ...], pictures: TablePictures) -> list[Example]:
    return [ClassExample(key, pictures.name(key, cell), _row_of(cell, labels))]


def _captions(key: str, cell: Cell, labels: tuple[str, ...], pictures: TablePictures) -> list[Example]:
    texts = cell.value(_CAPTION)
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise cell.bad(f"a text or a list of texts at {_spelled(_CAPTION)}")
    image = pictures.name(key, cell)
    return [CaptionExample(f"{key}-{place}", image, text) for place, text in enumerate(texts)]


_MAKERS: Mapping[str, Callable[[str, Cell, tuple[str, ...], TablePictures], list[Example]]] = {
    "sentences": _sentence,
    "classification": _class,
    "retrieval": _captions,
}


def _is_of(table: Table, task: str) -> bool:
    """Say whether a table is of a task; one that lacks a column of it is, where it can be of no other."""
    picture, caption, label = (bool(table.first(names)) for names in (_PICTURE, _CAPTION, (_LABEL,)))
    if task == "sentences":
        return not picture and (label or bool(table.first(_TEXT)))
    return picture and (caption if task == "retrieval" else label or not caption)


def _files(folder: Path, split: str) -> list[Path]:
    """List the files of a split: the first one that there is alone, or all parts of one that was cut."""
    for place in (folder, folder / "data"):
        for pattern in (*_ONE, *_SEVERAL):
            found = [path for path in place.glob(pattern.format(split)) if path.suffix in SUFFIXES]
            if found and pattern in _ONE:
                return [min(found, key=lambda path: SUFFIXES.index(path.suffix))]
            if found:
                return sorted(found)
    return []


def _cells(tables: Sequence[Table], columns: Sequence[Sequence[str]]) -> Iterator[Cell]:
    for table in tables:
        number, wanted = 0, [name for name in map(table.first, columns) if name]
        for group in range(table.groups):
            for place, row in enumerate(table.read(group, wanted)):
                number += 1
                yield Cell(table, group, place, number, row)


def _label(cell: Cell) -> str | None:
    """Spell a row's label; None where it is hidden.

    Raises:
        VlcompressError: it has none.
    """
    label, classes = cell.row.get(_LABEL), cell.table.classes
    if not isinstance(label, str | int) or label == "":
        raise cell.bad(f"'{_LABEL}', a text or a whole number")
    if not classes or isinstance(label, str):
        return str(label)
    return classes[label] if 0 <= label < len(classes) else None


def _row_of(cell: Cell, labels: tuple[str, ...]) -> int:
    label = _label(cell)
    return HIDDEN if label is None else labels.index(label)


def _bytes_in(value: Any) -> bytes | None:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return data if isinstance(data, bytes) else None


@lru_cache(maxsize=4)
def _pictures_of(path: Path, changed: int, group: int, column: str) -> Sequence[bytes]:
    """Read the pictures of a group once for all that are asked for one after the other; `changed` is a time stamp."""
    return [_bytes_in(row[column]) or b"" for row in open_table(path).read(group, [column])]


def _spelled(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))

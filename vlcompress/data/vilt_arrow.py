"""ViLT's Arrow files (github dandelin/ViLT, ``vilt/utils/write_*.py``): a row an image, with its sentences in lists.

FOLDER/ or FOLDER/arrow/ holds vqav2_{train,val,test,test-dev,trainable_val,rest_val}.arrow,
nlvr2_{train,dev,test1,...}.arrow, f30k_caption_karpathy_{train,val,test}.arrow and
coco_caption_karpathy_{train,val,test,restval}.arrow. The files are mapped into memory; pictures are read when asked
for. VQA's answer list is vqa2-id2label.json (as Hugging Face has it) where the folder has one, or else what the files'
answers and labels say together.

What the conversion loses cannot be had back: NLVR2's sentence numbers (an example's id counts the sentences of its row,
its consistency group is the sentence itself) and the captions' ids and order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.documents import read_document
from vlcompress.data.examples import AnswerExample, CaptionExample, Example, PairExample, SentenceExample
from vlcompress.data.extras import extra
from vlcompress.data.found import PICTURES_ONLY, Found, PicturesOnly, named_splits
from vlcompress.data.pictures import decode, image_name
from vlcompress.data.raw.nlvr2 import LABELS
from vlcompress.errors import VlcompressError

NAME = "vilt"

FILES = {
    "vqa": ("vqav2",),
    "nlvr2": ("nlvr2",),
    "retrieval": ("f30k_caption_karpathy", "coco_caption_karpathy"),
}
"""How the names of a task's files begin, before "_SPLIT.arrow"."""

COLUMNS = {
    "vqa": ("image", "questions", "answers", "answer_labels", "answer_scores", "image_id", "question_id"),
    "nlvr2": ("image_0", "image_1", "questions", "answers", "identifier"),
    "retrieval": ("image", "caption", "image_id"),
}
"""What a task's files must have."""

_DATA_SETS = {"f30k_caption_karpathy": "flickr30k", "coco_caption_karpathy": "coco"}
_COCO_PARTS = {"train": "train2014", "test": "test2015", "test-dev": "test2015"}
_IMAGE_COLUMNS = ("image", "image_0", "image_1")

Row = Mapping[str, Any]
Place = tuple[Path, Any, int, str]
"""Of a picture: file, table, row, column."""


class ArrowPictures(PicturesOnly):
    """Pictures inside Arrow files; see `vlcompress.data.examples.Pictures`. They have no region features."""

    def __init__(self) -> None:
        """Start without pictures; `name` names them."""
        self._places: dict[str, Place] = {}

    def name(self, name: str, path: Path, table: Any, row: int, column: str) -> str:
        """Name the picture in a column of a table's row; another picture of a name gets one of its own.

        The official loader takes each row's own picture, whatever the row says that it is called.
        """
        place = (path, table, row, column)
        if self._places.setdefault(name, place) is not place and self.picture_bytes(name) != _picture(place):
            name = f"{name}_of_{path.stem}_row_{row + 1}"
            self._places[name] = place
        return name

    def has_pixels(self, image: str) -> bool:
        """Say whether there is a picture."""
        return image in self._places

    def picture_bytes(self, image: str) -> bytes:
        """Read the picture's file as it is."""
        return _picture(self._places[image])

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read an image as uint8 [height, width, 3], RGB; errors as of `Pictures.pixels`."""
        if image not in self._places:
            raise VlcompressError(f"image '{image}' is not among the {len(self._places)} pictures of the Arrow files")
        path, _, row, _ = self._places[image]
        return decode(self.picture_bytes(image), f"'{path}', row {row + 1} (image '{image}')")


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits of a task: those of its first data set plain; all as "DATASET/SPLIT" if it may have several."""
    data_sets = {
        _DATA_SETS.get(prefix, prefix): [
            path.stem.removeprefix(f"{prefix}_") for path in sorted(_place(folder).glob(f"{prefix}_*.arrow"))
        ]
        for prefix in FILES.get(task, ())
    }
    return named_splits(data_sets, prefixed=len(data_sets) > 1)


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; see `vlcompress.data.found.Layout`.

    Raises:
        VlcompressError: besides, region features were asked for.
    """
    if feature_dim not in (None, PICTURES_ONLY):
        raise VlcompressError(f"'{folder}' holds ViLT's Arrow files, without features of size {feature_dim}")
    pictures = ArrowPictures()
    examples: list[Example] = []
    files: list[Path] = []
    for split in splits:
        path = _file(folder, task, split)
        table = open_table(path, COLUMNS[task])
        make = _MAKERS[task]
        for number, row in enumerate(_rows(table)):
            try:
                images, made = make(path, number, row)
            except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
                raise _bad(path, number, f"it is not in the format ({error})") from error
            names = {name: pictures.name(name, path, table, number, column) for name, column in images}
            examples += [_renamed(example, names) for example in made]
        files.append(path)
    labels, label_files = _labels(folder) if task == "vqa" else ((), ())
    return Found(tuple(examples), pictures, labels, (*files, *label_files))


def open_table(path: Path, columns: Sequence[str]) -> Any:
    """Map a file into memory as a pyarrow Table and check its structure, pictures apart.

    Raises:
        VlcompressError: not an Arrow file, cut, damaged, or a column is missing.
    """
    arrow, ipc = extra("pyarrow"), extra("pyarrow.ipc")
    try:
        table = ipc.open_file(arrow.memory_map(str(path))).read_all()
        table.validate(full=True)
    except (arrow.ArrowException, OSError) as error:
        raise VlcompressError(
            f"'{path}' is not a whole Arrow file ({error}): it is damaged, cut, or in Arrow's streaming format"
        ) from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise VlcompressError(f"'{path}' has no column '{missing[0]}' among {table.column_names}: of another task?")
    wrong = [name for name in columns if name in _IMAGE_COLUMNS and table.num_rows and not _is_bytes(table, name)]
    if wrong:
        raise VlcompressError(f"'{path}': column '{wrong[0]}' is {table.schema.field(wrong[0]).type}, not binary")
    return table


def _is_bytes(table: Any, column: str) -> bool:
    return str(table.schema.field(column).type) in ("binary", "large_binary")


def _rows(table: Any) -> Iterator[Row]:
    """Go through the rows without their pictures."""
    plain = table.drop_columns([name for name in table.column_names if name in _IMAGE_COLUMNS])
    for batch in plain.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


Made = tuple[list[tuple[str, str]], list[Example]]
"""A row's images by name and column, and its examples."""


def _answers(path: Path, number: int, row: Row) -> Made:
    part = _COCO_PARTS.get(row.get("split") or "", "val2014")
    name = f"COCO_{part}_{row['image_id']:012d}"
    questions, ids = row["questions"], row["question_id"]
    if len(questions) != len(ids):
        raise _bad(path, number, f"{len(questions)} questions with {len(ids)} ids")
    answers, scores = row["answers"] or [[]] * len(ids), row["answer_scores"] or [[]] * len(ids)
    if not len(answers) == len(scores) == len(ids) or list(map(len, answers)) != list(map(len, scores)):
        raise _bad(path, number, "its answers and scores differ in number from its questions")
    return [(name, "image")], [
        AnswerExample(key, name, text, dict(zip(given, score, strict=True)))
        for key, text, given, score in zip(ids, questions, answers, scores, strict=True)
    ]


def _pairs(path: Path, number: int, row: Row) -> Made:
    stem, texts, answers = row["identifier"], row["questions"], row["answers"]
    parts = stem.split("-")
    if len(parts) != 3 or len(texts) != len(answers) or not set(answers) <= set(LABELS):
        raise _bad(path, number, f"'{stem}' with {len(texts)} sentences and answers {answers} is no pair of NLVR2")
    images = (f"{stem}-img0", f"{stem}-img1")
    set_name = "-".join(parts[:2])
    made: list[Example] = [
        PairExample(f"{stem}-{i}", images, text, LABELS[answer], f"{set_name}-{text}")
        for i, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    return [(images[0], "image_0"), (images[1], "image_1")], made


def _captions(path: Path, number: int, row: Row) -> Made:
    name = image_name(row["image_id"])
    return [(name, "image")], [CaptionExample(f"{name}-{i}", name, text) for i, text in enumerate(row["caption"])]


_MAKERS: Mapping[str, Callable[[Path, int, Row], Made]] = {"vqa": _answers, "nlvr2": _pairs, "retrieval": _captions}


def _renamed(example: Example, names: Mapping[str, str]) -> Example:
    """Rename an example's images."""
    if all(name == new for name, new in names.items()):
        return example
    if isinstance(example, PairExample):
        return replace(example, images=(names[example.images[0]], names[example.images[1]]))
    assert not isinstance(example, SentenceExample)  # has no image
    return replace(example, image=names[example.image])


def _picture(place: Place) -> bytes:
    _, table, row, column = place
    data: bytes = table.column(column)[row].as_py()
    return data


def _place(folder: Path) -> Path:
    return folder / "arrow" if (folder / "arrow").is_dir() else folder


def _file(folder: Path, task: str, split: str) -> Path:
    named, _, name = split.rpartition("/")
    prefixes = [prefix for prefix in FILES[task] if named in ("", _DATA_SETS.get(prefix))]
    paths = [_place(folder) / f"{prefix}_{name}.arrow" for prefix in prefixes]
    return next((path for path in paths if path.is_file()), paths[0])


def _labels(folder: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Read VQA's answer list, or put it together from all the files.

    Raises:
        VlcompressError: the list has a hole, or two files say different things of a label.
    """
    for path in (folder / "vqa2-id2label.json", _place(folder) / "vqa2-id2label.json"):
        if path.is_file():
            document = read_document(path)
            if not isinstance(document, dict) or set(document) != {str(label) for label in range(len(document))}:
                raise VlcompressError(f"'{path}' does not name labels 0, 1, 2, ... each once: give a whole list")
            return tuple(document[str(label)] for label in range(len(document))), (path,)
    names: dict[int, str] = {}
    for path in sorted(_place(folder).glob("vqav2_*.arrow")):
        for label, answer in _named_labels(path, path.stat().st_mtime_ns):
            if names.setdefault(label, answer) != answer:
                raise VlcompressError(f"'{path}': label {label} is '{answer}' here and '{names[label]}' elsewhere")
    hole = next((label for label in range(len(names)) if label not in names), None)
    if hole is not None:
        raise VlcompressError(f"'{folder}': no file names answer {hole} of VQA: add vqa2-id2label.json")
    return tuple(names[label] for label in range(len(names))), ()


@lru_cache(maxsize=8)
def _named_labels(path: Path, changed: int) -> tuple[tuple[int, str], ...]:
    """Collect the (label, answer) pairs of a file; `changed` is its time stamp."""
    found: dict[tuple[int, str], None] = {}
    for row in _rows(open_table(path, COLUMNS["vqa"])):
        for labels, answers in zip(row["answer_labels"] or (), row["answers"] or (), strict=False):
            found.update(dict.fromkeys(zip(labels, answers, strict=False)))
    return tuple(found)


def _bad(path: Path, number: int, what: str) -> VlcompressError:
    return VlcompressError(f"'{path}', row {number + 1}: {what}")

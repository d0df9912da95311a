"""Karpathy's split files of captions: ``dataset_flickr30k.json``, ``dataset_coco.json``, ``dataset_flickr8k.json``."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from vlcompress.data.documents import Row, as_rows, check_unique, parsed, read_document, take
from vlcompress.data.examples import CaptionExample
from vlcompress.data.pictures import image_name
from vlcompress.errors import VlcompressError

SPLITS = ("train", "val", "test", "restval")
"""COCO's "restval" is the part of val2014 that training adds to "train"."""


DATA_SETS = ("flickr30k", "coco", "flickr8k")


def caption_file(folder: Path) -> Path:
    """Name the split file in `folder` or its ``karpathy/``: that of the folder's name, else the first known one's."""
    names = [f"dataset_{one}.json" for one in dict.fromkeys((folder.name, *DATA_SETS))]
    places = [place / name for name in names for place in (folder / "karpathy", folder)]
    return next((path for path in places if path.is_file()), folder / names[0])


def splits(path: Path) -> tuple[str, ...]:
    """List the splits that the file has."""
    if not path.is_file():
        return ()
    found = {str(row.get("split")) for row in _images(path, path.stat().st_mtime_ns)}
    return tuple(split for split in SPLITS if split in found)


def read_split(path: Path, split: str) -> list[CaptionExample]:
    """Read a split: one example a caption, in the order of the file.

    Raises:
        VlcompressError: not in the format, a sentence id used twice.
    """
    images = _images(path, path.stat().st_mtime_ns)
    rows = parsed(path, images, lambda path, number, row: _captions(path, number, row, split))
    examples = [example for captions in rows for example in captions]
    check_unique(path, (example.id for example in examples), "sentid")
    return examples


@lru_cache(maxsize=2)
def _images(path: Path, changed: int) -> list[Row]:
    """Read a file once for all splits; `changed` is its time stamp."""
    document = read_document(path)
    if not isinstance(document, dict) or "images" not in document:
        raise VlcompressError(f"'{path}' has no 'images': give Karpathy's dataset file")
    rows = as_rows(path, document["images"])
    _check_names(path, rows)
    return rows


def _check_names(path: Path, rows: Sequence[Row]) -> None:
    """Refuse two folders' pictures of one file name: one would be shown for both, a test picture in training say."""
    places: dict[str, str] = {}
    for row in rows:
        name, place = str(row.get("filename")), str(row.get("filepath", ""))
        if places.setdefault(name, place) != place:
            raise VlcompressError(
                f"'{path}': '{name}' is a picture in '{places[name]}' and another in '{place}', but images are found "
                "by their file's name: rename one of them there and in its folder"
            )


def _captions(path: Path, number: int, row: Row, split: str) -> list[CaptionExample]:
    if row.get("split") != split:
        return []
    file_name, sentences = take(path, number, row, "filename", "sentences")
    pairs = [take(path, number, sentence, "sentid", "raw") for sentence in as_rows(path, sentences)]
    return [CaptionExample(key, image_name(file_name), text) for key, text in pairs]

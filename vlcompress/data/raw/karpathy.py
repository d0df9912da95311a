"""Karpathy's split files of captions: ``dataset_flickr30k.json``, ``dataset_coco.json``."""

from functools import lru_cache
from pathlib import Path

from vlcompress.data.documents import Row, as_rows, check_unique, read_document, take
from vlcompress.data.examples import CaptionExample
from vlcompress.data.pictures import image_name
from vlcompress.errors import VlcompressError

SPLITS = ("train", "val", "test", "restval")
"""COCO's "restval" is the part of val2014 that training adds to "train"."""


def caption_file(folder: Path, dataset: str) -> Path:
    """Give the data set's file, in `folder` or its sub-folder ``karpathy/``."""
    name = f"dataset_{dataset}.json"
    return folder / "karpathy" / name if (folder / "karpathy" / name).is_file() else folder / name


def splits(path: Path) -> tuple[str, ...]:
    """Give the splits that the file has."""
    if not path.is_file():
        return ()
    found = {row.get("split") for row in _images(path, path.stat().st_mtime_ns)}
    return tuple(split for split in SPLITS if split in found)


def read_split(path: Path, split: str) -> list[CaptionExample]:
    """Read a split: one example a caption, in the order of the file.

    Raises:
        VlcompressError: not in the format, a sentence id used twice.
    """
    numbered = enumerate(_images(path, path.stat().st_mtime_ns), start=1)
    rows = [(number, row) for number, row in numbered if row.get("split") == split]
    examples = [example for number, row in rows for example in _captions(path, number, row)]
    check_unique(path, (example.id for example in examples), "sentid")
    return examples


@lru_cache(maxsize=2)
def _images(path: Path, changed: int) -> list[Row]:
    """Read a file once for all splits; `changed` is its time stamp."""
    document = read_document(path)
    if not isinstance(document, dict) or "images" not in document:
        raise VlcompressError(f"'{path}' has no 'images': give Karpathy's dataset file")
    return as_rows(path, document["images"])


def _captions(path: Path, number: int, row: Row) -> list[CaptionExample]:
    file_name, sentences = take(path, number, row, "filename", "sentences")
    pairs = [take(path, number, sentence, "sentid", "raw") for sentence in as_rows(path, sentences)]
    return [CaptionExample(key, image_name(file_name), text) for key, text in pairs]

"""RefCOCO, RefCOCO+ and RefCOCOg: ``refs(*).p``, ``instances.json`` and MAttNet's ``iid_to_ann_ids.json``.

The refs file is a Python 2 pickle; it is parsed by `vlcompress.data.pickles`, never executed. An example's target is
its place among the image's annotations: the order of ``iid_to_ann_ids.json``, in which UNITER's features are,
or that of ``instances.json`` where the folder has no such file.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompress.data.documents import Row, as_rows, bad_row, check_unique, parsed, read_document, take
from vlcompress.data.examples import ReferringExample
from vlcompress.data.pickles import read_pickle
from vlcompress.data.pictures import image_name
from vlcompress.errors import VlcompressError

REFS = ("refs(unc).p", "refs(umd).p", "refs(google).p")
"""Who split the data: UNC for RefCOCO and RefCOCO+, UMD (which has a test split) or Google for RefCOCOg."""
SPLITS = ("train", "val", "testA", "testB", "test")
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""
SLACK = 1.0
"""Pixels by which an annotated box may reach past the image's border (COCO's polygons are rounded)."""


@dataclass(frozen=True)
class Instances:
    """What instances.json says.

    Attributes:
        images: file name, width and height by image id.
        boxes: (x, y, width, height) by annotation id.
        order: annotation ids by image id.
    """

    images: Mapping[int, tuple[str, int, int]]
    boxes: Mapping[int, Box]
    order: Mapping[int, Sequence[int]]


def refs_file(folder: Path) -> Path:
    """Name the folder's refs file."""
    return next((folder / name for name in REFS if (folder / name).is_file()), folder / REFS[0])


def files(folder: Path) -> tuple[Path, ...]:
    """Name the files that are read."""
    optional = folder / "iid_to_ann_ids.json"
    return (refs_file(folder), folder / "instances.json", *((optional,) if optional.is_file() else ()))


def splits(folder: Path) -> tuple[str, ...]:
    """List the splits that the refs file has."""
    path = refs_file(folder)
    if not path.is_file():
        return ()
    found = {str(row.get("split")) for row in _refs(path, path.stat().st_mtime_ns)}
    return tuple(split for split in SPLITS if split in found)


def read_split(folder: Path, split: str) -> list[ReferringExample]:
    """Read a split: one example a sentence, in the order of the refs file.

    Raises:
        VlcompressError: a missing or damaged file, a reference to what is not there, a box outside its image.
    """
    path = refs_file(folder)
    instances = read_instances(folder)
    if not path.is_file():
        raise VlcompressError(f"no refs file at '{path}': add one of {', '.join(REFS)}")
    rows = parsed(
        path,
        _refs(path, path.stat().st_mtime_ns),
        lambda path, number, row: _examples(path, number, row, instances) if row.get("split") == split else [],
    )
    examples = [example for made in rows for example in made]
    check_unique(path, (example.id for example in examples), "sent_id")
    return examples


def read_instances(folder: Path) -> Instances:
    """Read the annotations, and their order.

    Raises:
        VlcompressError: a missing or damaged file, a box outside its image.
    """
    path = folder / "instances.json"
    document = read_document(path)
    if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
        raise VlcompressError(f"'{path}' has no 'images' and 'annotations': give COCO's instances.json")
    images = dict(parsed(path, as_rows(path, document["images"]), _image))
    boxes: dict[int, Box] = {}
    order: dict[int, list[int]] = defaultdict(list)

    def note(path: Path, number: int, row: Row) -> int:
        key, image, box = take(path, number, row, "id", "image_id", "bbox")
        boxes[key] = _box(path, number, key, box, images.get(image))
        order[image].append(key)
        return int(key)

    check_unique(path, parsed(path, as_rows(path, document["annotations"]), note), "annotation")
    return Instances(images, boxes, _published_order(folder / "iid_to_ann_ids.json", order))


def _image(path: Path, number: int, row: Row) -> tuple[int, tuple[str, int, int]]:
    key, name, width, height = take(path, number, row, "id", "file_name", "width", "height")
    return key, (name, width, height)


@lru_cache(maxsize=3)
def _refs(path: Path, changed: int) -> list[Row]:
    """Read a refs file once for all splits; `changed` is its time stamp."""
    return as_rows(path, read_pickle(path))


def _published_order(path: Path, order: Mapping[int, Sequence[int]]) -> Mapping[int, Sequence[int]]:
    if not path.is_file():
        return order
    document = read_document(path)
    if not isinstance(document, dict) or not isinstance(document.get("iid_to_ann_ids"), dict):
        raise VlcompressError(f"'{path}' has no 'iid_to_ann_ids': give MAttNet's file")
    listed: dict[int, Sequence[int]] = {}
    for image, ids in document["iid_to_ann_ids"].items():
        whole = image.isdecimal() and isinstance(ids, list) and all(isinstance(one, int) for one in ids)
        if not whole or sorted(ids) != sorted(order.get(int(image), ())):
            raise VlcompressError(f"'{path}', image {image}: its annotations are not those of instances.json")
        listed[int(image)] = ids
    return {**order, **listed}


def _box(path: Path, number: int, key: int, box: Any, image: tuple[str, int, int] | None) -> Box:
    if image is None:
        raise bad_row(path, number, f"annotation {key} is of an image that is not among the images")
    x, y, width, height = (float(value) for value in box)
    name, limit_x, limit_y = image
    inside = min(x, y) >= -SLACK and x + width <= limit_x + SLACK and y + height <= limit_y + SLACK
    if not inside or width < 0 or height < 0:  # false for NaN too
        raise bad_row(
            path, number, f"annotation {key}: box {tuple(box)} is outside '{name}' of {limit_x}x{limit_y} pixels"
        )
    return x, y, width, height


def _examples(path: Path, number: int, row: Row, instances: Instances) -> list[ReferringExample]:
    image, annotation, sentences = take(path, number, row, "image_id", "ann_id", "sentences")
    if image not in instances.images or annotation not in instances.order.get(image, ()):
        raise bad_row(path, number, f"annotation {annotation} of image {image} is not in instances.json")
    name = image_name(instances.images[image][0])
    target = list(instances.order[image]).index(annotation)
    return [
        ReferringExample(key, name, text, instances.boxes[annotation], target)
        for key, text in (take(path, number, sentence, "sent_id", "sent") for sentence in as_rows(path, sentences))
    ]

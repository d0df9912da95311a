"""Labelled pictures for classification: CIFAR-10 and -100, SVHN, Fashion-MNIST, or any folder of class folders.

Splits of the four data sets are those of Chen et al. (CVPR 2021): the last 5,000 training pictures are "val" (a tenth
where there are fewer than 50,000), the others "train"; "trainval" is all of them, "test" the test files. Of a folder
of class folders, FOLDER/SPLIT/CLASS/picture.jpg, the splits are the sub-folders.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.examples import ClassExample
from vlcompress.data.found import Found, PicturesOnly
from vlcompress.data.labelled import cifar, fashion_mnist, folders, svhn
from vlcompress.data.labelled.parts import Part, Published
from vlcompress.data.pictures import encode
from vlcompress.errors import VlcompressError

NAME = "labelled"
TASK = "classification"
VALIDATION = 5000
"""Most pictures of a validation split."""

_FORMATS = (cifar.find, svhn.find, fashion_mnist.find)


class ArrayPictures(PicturesOnly):
    """Pictures in memory, named "PART/INDEX"; see `vlcompress.data.examples.Pictures`."""

    def __init__(self, parts: dict[str, NDArray[np.uint8]]) -> None:
        self.parts = parts

    def has_pixels(self, image: str) -> bool:
        """Say whether the picture is there."""
        part, _, index = image.partition("/")
        return part in self.parts and index.isdecimal() and int(index) < len(self.parts[part])

    def picture_bytes(self, image: str) -> bytes:
        """Encode a picture as PNG, which loses nothing."""
        return encode(self.pixels(image))

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Copy a picture out, uint8 [height, width, 3]."""
        if not self.has_pixels(image):
            raise VlcompressError(f"no picture '{image}' among {', '.join(self.parts)}")
        part, _, index = image.partition("/")
        return np.ascontiguousarray(self.parts[part][int(index)])


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """List the splits that the folder has in any of these formats; () for other tasks."""
    if task != TASK:
        return ()
    published = _published(folder)
    if published is None:
        return folders.splits(folder)
    training = ("train", "val", "trainval") if "train" in published.parts else ()
    return (*training, *(("test",) if "test" in published.parts else ()))


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; `feature_dim` says nothing here.

    Raises:
        VlcompressError: a missing or damaged file, with its name and the record.
    """
    published = _published(folder)
    if published is None:
        return folders.open_splits(folder, splits)
    wanted = dict.fromkeys("test" if split == "test" else "train" for split in splits)
    parts = {name: published.parts[name]() for name in wanted}
    examples = [example for split in splits for example in _examples(split, parts)]
    classes = next(iter(parts.values())).classes
    files = tuple(file for part in parts.values() for file in part.files)
    return Found(tuple(examples), ArrayPictures({name: part.images for name, part in parts.items()}), classes, files)


def _examples(split: str, parts: dict[str, Part]) -> list[ClassExample]:
    name = "test" if split == "test" else "train"
    count = len(parts[name].labels)
    edge = count - min(VALIDATION, count // 10)
    start, end = {"train": (0, edge), "val": (edge, count)}.get(split, (0, count))
    labels = parts[name].labels
    return [ClassExample(f"{name}/{i}", f"{name}/{i}", int(labels[i])) for i in range(start, end)]


def _published(folder: Path) -> Published | None:
    """Find the one published data set of a folder, or of what its archive unpacks to.

    Raises:
        VlcompressError: several.
    """
    places = [place for place in (folder, *(folder / name for name in cifar.FOLDERS)) if place.is_dir()]
    found = {place: published for place in places for find in _FORMATS if (published := find(place)) is not None}
    if len(found) > 1:
        names = ", ".join(f"{published.name} ('{place}')" for place, published in found.items())
        raise VlcompressError(f"'{folder}' holds several data sets, {names}: give the folder of one of them")
    return next(iter(found.values()), None)

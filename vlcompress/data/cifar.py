"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), binary version, for classification.

data_batch_{1..5}.bin, test_batch.bin, batches.meta.txt (10); train.bin, test.bin, fine_label_names.txt (100). A record
is one label byte (two for CIFAR-100: coarse, fine) and 3072 bytes of pixels, a channel after the other.

Splits are those of Chen et al. (CVPR 2021): the last 5,000 training pictures are "val" (a tenth where there are fewer
than 50,000), the others "train"; "trainval" is all of them, "test" the test files.

Shapes: N pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.examples import ClassExample
from vlcompress.data.found import Found, PicturesOnly
from vlcompress.data.pictures import encode
from vlcompress.errors import VlcompressError

NAME = "cifar"
TASK = "classification"
VALIDATION = 5000
"""Most pictures of a validation split."""

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class CifarSet:
    """One of the two data sets.

    Attributes:
        names: file of the class names.
        label_bytes: at the head of a record; the last one is the label.
        parts: files of "train" and "test".
        archive: folder that the published archive unpacks to.
    """

    names: str
    label_bytes: int
    parts: dict[str, tuple[str, ...]]
    archive: str


SETS = (
    CifarSet(
        "batches.meta.txt",
        1,
        {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
        "cifar-10-batches-bin",
    ),
    CifarSet("fine_label_names.txt", 2, {"train": ("train.bin",), "test": ("test.bin",)}, "cifar-100-binary"),
)


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
    """List the splits: where the class names are, both parts are expected."""
    return ("train", "val", "trainval", "test") if task == TASK and _find(folder) else ()


def open_splits(folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits that `splits` named; `feature_dim` says nothing here.

    Raises:
        VlcompressError: a missing or damaged file, with its name and the record.
    """
    found = _find(folder)
    assert found is not None
    place, variant = found
    classes = _class_names(place / variant.names)
    files = {part: [place / name for name in variant.parts[part]] for part in map(_part, splits)}
    records = {
        part: np.concatenate([_records(one, variant, len(classes)) for one in own]) for part, own in files.items()
    }
    labels = {part: rows[:, variant.label_bytes - 1] for part, rows in records.items()}
    examples = [example for split in splits for example in _examples(split, labels[_part(split)])]
    pictures = ArrayPictures({part: _planes(rows[:, variant.label_bytes :]) for part, rows in records.items()})
    return Found(tuple(examples), pictures, classes, tuple(file for own in files.values() for file in own))


def _part(split: str) -> str:
    return "test" if split == "test" else "train"


def _examples(split: str, labels: NDArray[np.uint8]) -> list[ClassExample]:
    part, count = _part(split), len(labels)
    edge = count - min(VALIDATION, count // 10)
    start, end = {"train": (0, edge), "val": (edge, count)}.get(split, (0, count))
    return [ClassExample(f"{part}/{i}", f"{part}/{i}", int(labels[i])) for i in range(start, end)]


def _find(folder: Path) -> tuple[Path, CifarSet] | None:
    """Find the one data set of a folder, or of what its archive unpacks to.

    Raises:
        VlcompressError: several.
    """
    places = [(place, one) for one in SETS for place in (folder, folder / one.archive)]
    found = [(place, one) for place, one in places if (place / one.names).is_file()]
    if len(found) > 1:
        names = ", ".join(f"'{place / one.names}'" for place, one in found)
        raise VlcompressError(f"'{folder}' holds several data sets, {names}: give the folder of one of them")
    return found[0] if found else None


def _records(file: Path, variant: CifarSet, classes: int) -> NDArray[np.uint8]:
    """Read a file's records, uint8 [N, labels and pixels], each with a label that is a class."""
    width = variant.label_bytes + _PIXELS
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise VlcompressError(f"no file at '{file}': the data set is incomplete, download it again") from error
    if not len(content) or len(content) % width:
        raise VlcompressError(
            f"'{file}' has {len(content)} bytes, a multiple of {width} is expected: it is cut in record "
            f"{len(content) // width + 1}, or of another data set"
        )
    records = content.reshape(-1, width)
    labels = records[:, variant.label_bytes - 1]
    for wrong in np.flatnonzero(labels >= classes)[:1]:
        raise VlcompressError(
            f"'{file}', record {wrong + 1}: label {labels[wrong]} is none of {classes} (from 0): "
            "the file is damaged or of another data set"
        )
    return records


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise VlcompressError(f"no class names at '{path}' ({error}): put the data set's own file there") from error
    if len(names) < 2:
        raise VlcompressError(f"'{path}' holds {len(names)} class names: one a line is expected")
    return names


def _planes(flat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return flat.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)

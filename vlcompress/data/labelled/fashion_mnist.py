"""Fashion-MNIST (Xiao et al., 2017): MNIST's IDX files, plain or gzipped; grey pictures of 28 pixels.

An IDX file is big-endian: two zero bytes, the type (8: bytes), the number of axes, each axis' length, the values.
"""

import gzip
import math
import struct
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.labelled.parts import Part, Published, checked
from vlcompress.errors import VlcompressError

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MOST_BYTES = 1 << 30
"""An array that claims to be larger is refused before it is read."""

_BYTES = 8


def find(folder: Path) -> Published | None:
    """Find Fashion-MNIST if the folder holds its training or its test pictures."""
    parts = {
        part: _file(folder, f"{prefix}-images-idx3-ubyte") for part, prefix in (("train", "train"), ("test", "t10k"))
    }
    found = {part: partial(_part, images) for part, images in parts.items() if images is not None}
    return Published("fashion-mnist", found) if found else None


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _part(images: Path) -> Part:
    name = images.name.removesuffix(".gz").replace("images-idx3", "labels-idx1")
    labels = _file(images.parent, name)
    if labels is None:
        raise VlcompressError(f"'{images}' has no labels beside it: put {name} (or .gz) there")
    grey_NHW = read_idx(images, axes=3)
    return checked(
        [images, labels], np.repeat(grey_NHW[..., None], 3, axis=3), read_idx(labels, axes=1).astype(np.int64), CLASSES
    )


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes with so many axes; a name that ends in .gz is unpacked.

    Raises:
        VlcompressError: another kind of file, one that is cut, or larger than `MOST_BYTES`.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _values(path, cast(BinaryIO, file), axes)
    except (OSError, EOFError, struct.error) as error:
        raise VlcompressError(f"'{path}' is not a readable IDX file ({error}): it is damaged or cut") from error


def _values(path: Path, file: BinaryIO, axes: int) -> NDArray[np.uint8]:
    zeros, kind, found = struct.unpack(">HBB", file.read(4))
    if (zeros, kind, found) != (0, _BYTES, axes):
        raise VlcompressError(f"'{path}' is not an IDX file of bytes with {axes} axes: it is of another kind")
    shape = struct.unpack(f">{axes}I", file.read(4 * axes))
    size = math.prod(shape)
    if size > MOST_BYTES:
        raise VlcompressError(f"'{path}' claims {size} bytes of values, {MOST_BYTES} are allowed")
    values = file.read(size)
    if len(values) < size:
        raise VlcompressError(f"'{path}' holds {len(values)} of the {size} values that its header names: it is cut")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)

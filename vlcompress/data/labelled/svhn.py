"""SVHN's cropped digits (Netzer et al., 2011): train_32x32.mat, test_32x32.mat; label 10 stands for the digit 0."""

from functools import partial
from pathlib import Path

import numpy as np

from vlcompress.data.labelled.mat import read_mat
from vlcompress.data.labelled.parts import Part, Published, checked
from vlcompress.errors import VlcompressError

CLASSES = tuple(str(digit) for digit in range(10))


def find(folder: Path) -> Published | None:
    """Return SVHN if the folder holds its training or its test file."""
    files = {part: folder / f"{part}_32x32.mat" for part in ("train", "test")}
    found = {part: partial(_part, file) for part, file in files.items() if file.is_file()}
    return Published("svhn", found) if found else None


def _part(file: Path) -> Part:
    arrays = read_mat(file)
    images, labels = arrays.get("X"), arrays.get("y")
    if images is None or images.ndim != 4 or images.shape[2] != 3 or images.dtype != np.uint8:
        raise VlcompressError(f"'{file}' holds no pictures 'X' of bytes [height, width, 3, N]: give SVHN's format 2")
    if labels is None:
        raise VlcompressError(f"'{file}' holds no labels 'y': give SVHN's format 2")
    digits = labels.reshape(-1).astype(np.int64)
    return checked(
        [file], images.transpose(3, 0, 1, 2).astype(np.uint8, copy=False), np.where(digits == 10, 0, digits), CLASSES
    )

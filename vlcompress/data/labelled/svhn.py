"""SVHN's cropped digits (Netzer et al., 2011): train_32x32.mat, test_32x32.mat; label 10 stands for the digit 0."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlcompress.data.extras import extra
from vlcompress.data.labelled.parts import Part, Published, checked
from vlcompress.errors import VlcompressError

CLASSES = tuple(str(digit) for digit in range(10))


def find(folder: Path) -> Published | None:
    """Find SVHN if the folder holds its training or its test file."""
    files = {part: folder / f"{part}_32x32.mat" for part in ("train", "test")}
    found = {part: partial(_part, file) for part, file in files.items() if file.is_file()}
    return Published("svhn", found) if found else None


def _part(file: Path) -> Part:
    arrays = _read(file)
    images, labels = arrays.get("X"), arrays.get("y")
    if images is None or images.ndim != 4 or images.shape[2] != 3 or images.dtype != np.uint8:
        raise VlcompressError(f"'{file}' holds no pictures 'X' of bytes [height, width, 3, N]: give SVHN's format 2")
    if labels is None:
        raise VlcompressError(f"'{file}' holds no labels 'y': give SVHN's format 2")
    digits = labels.reshape(-1).astype(np.int64)
    return checked(
        [file], images.transpose(3, 0, 1, 2).astype(np.uint8, copy=False), np.where(digits == 10, 0, digits), CLASSES
    )


def _read(file: Path) -> dict[str, Any]:
    io = extra("scipy.io")
    try:
        arrays: dict[str, Any] = io.loadmat(file, variable_names=("X", "y"))
    except FileNotFoundError as error:
        raise VlcompressError(f"no file at '{file}': the data set is incomplete, download it again") from error
    except NotImplementedError as error:
        raise VlcompressError(f"'{file}' is not a MAT file of version 5: save it with -v7 or older") from error
    except Exception as error:  # a damaged file ends in errors of every kind there
        raise VlcompressError(f"'{file}' is not a whole MAT file ({error}): it is damaged or cut") from error
    return arrays

"""What a format of labelled pictures gives: a part of the data as arrays.

Shapes: N pictures of H x W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.errors import VlcompressError


@dataclass(frozen=True)
class Part:
    """The pictures of a data set's training or test files.

    Attributes:
        images: uint8 [N, H, W, 3], RGB.
        labels: int64 [N], indices of `classes`.
        classes: their names.
        files: those that were read.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Published:
    """A data set that was found in a folder.

    Attributes:
        name: of the data set.
        parts: "train" and "test", as far as their files are there, with what reads them.
    """

    name: str
    parts: Mapping[str, Callable[[], Part]]


def checked(
    files: Sequence[Path], images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str]
) -> Part:
    """Make a part, refusing labels that are no classes or too few for the pictures.

    Raises:
        VlcompressError: with the file and the record.
    """
    if len(images) != len(labels):
        raise VlcompressError(f"'{files[0]}': {len(labels)} labels for {len(images)} pictures: every picture needs one")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise VlcompressError(
            f"'{files[0]}', record {wrong[0] + 1}: label {labels[wrong[0]]} is none of {len(classes)} (from 0): "
            "the file is damaged or of another data set"
        )
    return Part(images, labels, tuple(classes), tuple(files))


def names_in(path: Path) -> tuple[str, ...]:
    """Read class names, one a line.

    Raises:
        VlcompressError: no such file, or fewer than two names.
    """
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise VlcompressError(f"no class names at '{path}' ({error}): put the data set's own file there") from error
    if len(names) < 2:
        raise VlcompressError(f"'{path}' holds {len(names)} class names: one a line is expected")
    return names

"""Any pictures sorted into folders, one a class: FOLDER/SPLIT/CLASS/**/picture.jpg (ImageNet's layout, VisDA's).

The splits are the sub-folders; the task is classification.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.examples import ClassExample
from vlcompress.data.found import Found, PicturesOnly
from vlcompress.data.pictures import MOST_BYTES, SUFFIXES, decode
from vlcompress.errors import VlcompressError

NAME = "labelled"
TASK = "classification"
SPLITS = ("train", "val", "valid", "test")
"""Names of sub-folders that are taken for splits: other data sets have folders of pictures too."""


class FolderPictures(PicturesOnly):
    """Pictures named by their path below a folder; see `vlcompress.data.examples.Pictures`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has_pixels(self, image: str) -> bool:
        """Say whether the file is there."""
        return (self.folder / image).is_file()

    def picture_bytes(self, image: str) -> bytes:
        """Read the picture's file as it is; errors as of `pixels`."""
        path = self.folder / image
        try:
            if path.stat().st_size > MOST_BYTES:
                raise VlcompressError(f"'{path}' has {path.stat().st_size} bytes, {MOST_BYTES} are allowed")
            return path.read_bytes()
        except OSError as error:
            raise VlcompressError(f"no picture at '{path}' ({error.strerror})") from error

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read a picture; errors as of `Pictures.pixels`."""
        return decode(self.picture_bytes(image), f"'{self.folder / image}'")


def splits(folder: Path, task: str) -> tuple[str, ...]:
    """Name the sub-folders that hold at least two classes with pictures; () for other tasks."""
    if task != TASK:
        return ()
    named = (path for path in _folders(folder) if path.name in SPLITS)
    return tuple(path.name for path in named if len(_classes(path)) > 1)


def open_splits(folder: Path, task: str, names: Sequence[str], feature_dim: int | None) -> Found:
    """Open splits; the classes are those of all splits together, by name. `feature_dim` says nothing here.

    Raises:
        VlcompressError: a split that lacks a class of another: what is scored could not be learned, or not scored.
    """
    classes = {name: _classes(folder / name) for name in splits(folder, task)}
    labels = sorted({one for own in classes.values() for one in own})
    files: list[Path] = []
    examples: list[ClassExample] = []
    for name in names:
        missing = sorted(set(labels) - set(classes[name]))
        if missing:
            raise VlcompressError(
                f"'{folder / name}' has no class '{missing[0]}', another split has it: add the folder"
            )
        for label, one in enumerate(labels):
            for path in _pictures(folder / name / one):
                image = path.relative_to(folder).as_posix()
                examples.append(ClassExample(image, image, label))
                files.append(path)
    return Found(tuple(examples), FolderPictures(folder), tuple(labels), tuple(files))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(folder: Path) -> list[str]:
    return [path.name for path in _folders(folder) if next(iter(_pictures(path)), None) is not None]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())

"""Images of a folder: region features in LXMERT's TSVs, pictures loose or in zip files, found by name.

An image's name is its file name without the suffix; a TSV's img_id is the same name. Two files of one name must be one
picture.
"""

import io
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.regions import RegionFile, Regions, region_file
from vlcompress.errors import VlcompressError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_PIXELS = 100_000_000
"""A larger picture is refused before it is decoded."""
MOST_BYTES = 256 << 20
"""A longer picture file is refused before it is read."""


@dataclass(frozen=True)
class PictureFile:
    """Where a picture is: a file, or a member of a zip file."""

    path: Path
    member: str = ""
    size: int = 0

    def read(self) -> bytes:
        """Read the file's bytes.

        Raises:
            VlcompressError: unreasonably long, or a damaged zip file.
        """
        if self.size > MOST_BYTES:
            raise VlcompressError(f"{self}: {self.size} bytes are no picture; {MOST_BYTES} are allowed: remove it")
        if not self.member:
            return self.path.read_bytes()
        try:
            with ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (BadZipFile, zlib.error, KeyError, OSError, RuntimeError) as error:
            raise VlcompressError(f"{self} cannot be read ({error}): the zip file is damaged or cut") from error

    def __str__(self) -> str:
        """Say which file, for errors."""
        return f"'{self.path}', member '{self.member}'" if self.member else f"'{self.path}'"


class FilePictures:
    """Images of a folder; see `vlcompress.data.examples.Pictures`."""

    def __init__(
        self, roots: Sequence[Path], detected: Sequence[RegionFile] = (), ground_truth: Sequence[RegionFile] = ()
    ) -> None:
        """Take region files that are open already; pictures are looked for when one is first asked for.

        Args:
            roots: folders that are searched for pictures, sub-folders and zip files included.
            detected: the detector's regions.
            ground_truth: regions of annotated boxes, in the order of the annotation.
        """
        self.detected, self.ground_truth = tuple(detected), tuple(ground_truth)
        self._roots = tuple(root for root in roots if root.is_dir())
        self._known_alike: set[str] = set()

    @property
    def feature_dim(self) -> int:
        """Width of the region features; 0 where there are only pixels."""
        files = self.detected or self.ground_truth
        return files[0].feature_dim if files else 0

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        """Say whether the image has region features; `ground_truth` None means of either kind."""
        files = {None: (*self.detected, *self.ground_truth), True: self.ground_truth, False: self.detected}
        return any(image in file for file in files[ground_truth])

    def has_pixels(self, image: str) -> bool:
        """Say whether there is a picture."""
        return image in self._pictures

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        """Read an image's regions; errors as of `Pictures.regions`."""
        files = self.ground_truth if ground_truth else self.detected
        if not files:
            kind = "the annotated boxes (*_gt*.tsv)" if ground_truth else "the detector (*_imgfeat/*.tsv)"
            raise VlcompressError(f"image '{image}': there are no region features of {kind}: extract them")
        return next((file for file in files if image in file), files[0]).read(image)

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read an image as uint8 [height, width, 3], RGB; errors as of `Pictures.pixels`."""
        if image not in self._pictures:
            places = ", ".join(f"'{root}'" for root in self._roots) or "any folder"
            raise VlcompressError(f"image '{image}' is not among the {len(self._pictures)} pictures in {places}")
        return decode(self.picture_bytes(image), str(self._pictures[image][0]))

    def files_of(self, images: Iterable[str]) -> tuple[Path, ...]:
        """Name the picture files and zip files that these images are read from, those without a picture left out."""
        return tuple(dict.fromkeys(file.path for image in images for file in self._pictures.get(image, ())))

    def picture_bytes(self, image: str) -> bytes:
        """Read the picture's file as it is.

        Raises:
            VlcompressError: two different files have this name, or as of `PictureFile.read`.
        """
        first, *others = self._pictures[image]
        content = first.read()
        if image not in self._known_alike:
            other = next((one for one in others if one.size != first.size or one.read() != content), None)
            if other is not None:
                raise VlcompressError(
                    f"image '{image}' is two pictures, {first} and {other}: an image is found by its file's name, so "
                    "rename or remove one of the two"
                )
            self._known_alike.add(image)
        return content

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the images that have a picture."""
        return tuple(self._pictures)

    @cached_property
    def _pictures(self) -> Mapping[str, list[PictureFile]]:
        """The files of each name, one at least."""
        found: dict[str, list[PictureFile]] = {}
        for root in self._roots:
            for name, file in _pictures_under(root):
                found.setdefault(name, []).append(file)
        return found


def image_name(file_name: str) -> str:
    """Name an image: the last part of its path without a picture's suffix (names may hold other dots)."""
    name = file_name.rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode a picture file to uint8 [height, width, 3], RGB; its size is checked before it is decoded.

    Raises:
        VlcompressError: not a picture, cut, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise VlcompressError(f"{where}: {picture.width}x{picture.height} pixels, {MOST_PIXELS} are allowed")
            return np.asarray(as_rgb(picture))
    except Image.DecompressionBombError as error:  # Pillow's own limit, asked before the size can be
        raise VlcompressError(f"{where}: {error}; {MOST_PIXELS} pixels are allowed: make it smaller") from error
    except UnidentifiedImageError as error:
        raise VlcompressError(f"{where} is not a readable JPEG or PNG: it is damaged, or another file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise VlcompressError(f"{where} is not a readable JPEG or PNG ({error}): it is damaged or cut") from error


def as_rgb(picture: "Image.Image") -> "Image.Image":
    """Convert a picture to RGB, 8 bits a channel; of 16 bits the upper 8 are taken.

    Pillow does so itself in colour, but cuts grey of 16 bits off at 255, and nearly all of a picture is white.
    """
    from PIL import Image

    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [height, width, 3] as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def open_regions(paths: Iterable[Path], images: Iterable[str], feature_dim: int | None) -> tuple[RegionFile, ...]:
    """Index region files until every image is found; those whose name fits the images' names come first.

    Args:
        paths: TSV files.
        images: the images that are wanted.
        feature_dim: the width that is wanted; None takes that of the first file.

    Raises:
        VlcompressError: a damaged file, or files of two widths.
    """
    missing = set(images)
    sample = next(iter(missing), "")
    opened: list[RegionFile] = []
    for path in sorted(paths, key=lambda path: (path.name.split("_")[0] not in sample, path)):
        if not missing:
            break
        file = region_file(path, opened[0].feature_dim if opened else feature_dim)
        found = {image for image in missing if image in file}
        if found or not opened:
            opened.append(file)
        missing -= found
    return tuple(opened)


def _pictures_under(root: Path) -> Iterator[tuple[str, PictureFile]]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix.lower() in SUFFIXES and path.is_file():  # a link may lead nowhere
                yield image_name(name), PictureFile(path, size=path.stat().st_size)
            elif path.suffix.lower() == ".zip":
                yield from _members(path)


def _members(path: Path) -> Iterator[tuple[str, PictureFile]]:
    try:
        with ZipFile(path) as archive:
            infos = archive.infolist()
    except (BadZipFile, OSError) as error:
        raise VlcompressError(f"'{path}' is not a readable zip file ({error}): it is damaged or cut") from error
    for info in infos:
        if Path(info.filename).suffix.lower() in SUFFIXES:
            yield image_name(info.filename), PictureFile(path, info.filename, info.file_size)

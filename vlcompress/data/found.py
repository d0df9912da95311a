"""What the readers of the published layouts have in common: what they give, and what they are asked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vlcompress.data.examples import Example, Pictures, TokenIds
from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError

PICTURES_ONLY = 0
"""The feature width that asks for pictures and no region features (families that take pixels)."""


class OpenedPictures(Pictures, Protocol):
    """What a layout's reader says of its images, beyond what tasks ask."""

    def picture_bytes(self, image: str) -> bytes:
        """Read the picture's file as it is, of an image that has one."""

    def files_of(self, images: Iterable[str]) -> tuple[Path, ...]:
        """Name the picture files that these images are read from; () where `Found.files` or its identity has them."""


class PicturesOnly:
    """What sources of pictures without region features have in common; their pictures are among the data's files."""

    feature_dim = 0

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        """Say no: these are pictures alone."""
        return False

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        """Refuse: these are pictures alone."""
        raise VlcompressError(f"image '{image}': these data hold pictures and no region features")

    def files_of(self, images: Iterable[str]) -> tuple[Path, ...]:
        """Name none: `Found.files` has them."""
        return ()


@dataclass(frozen=True)
class Found:
    """Some splits as a layout's reader gives them; nobody has looked yet whether every image is there.

    Attributes:
        examples: of all splits, in the order of the files.
        pictures: where their images are read from.
        labels: the closed list of answers, in the data's own order; () where the task has none.
        files: those whose content makes the data's identity.
        left_out: rows that the reader passed over, and why.
        encoded: token ids that the data brings along.
        identity: of the content, where the layout records it; "" where it is made of `files`.
    """

    examples: tuple[Example, ...]
    pictures: OpenedPictures
    labels: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    encoded: TokenIds | None = None
    identity: str = ""


class Layout(Protocol):
    """A published layout: a module of this package."""

    NAME: str

    def splits(self, folder: Path, task: str) -> tuple[str, ...]:
        """List the splits of a task that the folder has in this layout; () where it has none."""

    def open_splits(self, folder: Path, task: str, splits: Sequence[str], feature_dim: int | None) -> Found:
        """Open splits that `splits` named.

        Raises:
            VlcompressError: a missing or damaged file, with its name and the record.
        """


def named_splits(data_sets: Mapping[str, Sequence[str]], *, prefixed: bool = True) -> tuple[str, ...]:
    """Name the splits of a task's data sets: those of the first one plain, and all as "DATASET/SPLIT" if `prefixed`."""
    found: dict[str, None] = {}
    for data_set, names in data_sets.items():
        if not found:
            found.update(dict.fromkeys(names))
        if prefixed:
            found.update(dict.fromkeys(f"{data_set}/{name}" for name in names))
    return tuple(found)

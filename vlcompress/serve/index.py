"""What a server searches: pictures, region features and captions of a folder.

FOLDER/NAME.jpg, .png, .webp   pictures
FOLDER/NAME.npz                region features: "features" [R, D], "boxes" [R, 4] in fractions
FOLDER/captions.txt            captions, one a line
"""

from dataclasses import dataclass
from pathlib import Path

from vlcompress.errors import VlcompressError

PICTURES, FEATURES, CAPTIONS = (".jpg", ".jpeg", ".png", ".webp"), (".npz",), "captions.txt"
MOST = 256
"""Images of an index, and captions: every one is paired with the question and run through the model."""


@dataclass(frozen=True)
class Index:
    """Files of images in the order of their names, and captions."""

    images: tuple[Path, ...]
    captions: tuple[str, ...]


def read_index(folder: Path) -> Index:
    """List what a folder holds; pictures are read when they are searched.

    Raises:
        VlcompressError: no folder, nothing in it, or too much.
    """
    if not folder.is_dir():
        raise VlcompressError(f"no index at '{folder}': give a folder of pictures, .npz features or {CAPTIONS}")
    images = tuple(path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES + FEATURES)
    captions, lines = folder / CAPTIONS, tuple[str, ...]()
    if captions.is_file():
        lines = tuple(line.strip() for line in captions.read_text(encoding="utf-8").splitlines() if line.strip())
    if not images and not lines:
        raise VlcompressError(f"the index '{folder}' is empty: put pictures, .npz features or {CAPTIONS} into it")
    if max(len(images), len(lines)) > MOST:
        raise VlcompressError(
            f"the index '{folder}' holds {len(images)} images and {len(lines)} captions: at most {MOST} of each are "
            "searched, because every one goes through the model; split it"
        )
    return Index(images, lines)

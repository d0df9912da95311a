"""Pictures as models take them: resized, cut, in a model's value range, with Pillow alone.

ViLT's rules are those of the official code (dandelin/ViLT, ``vilt/transforms``): the shorter side becomes 384 unless
the longer would pass 1333/800 of that, bicubic, both sides floored to a multiple of 32; values go from -1 to 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlcompress.data.examples import Pictures
from vlcompress.data.regions import Regions

HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of each channel that take 0..1 to -1..1."""

LONGEST = 1333 / 800
"""Longest side as a multiple of the shorter side's target (detectors' habit, which PixelBERT and ViLT keep)."""


def target_size(height: int, width: int, shorter: int, multiple: int) -> tuple[int, int]:
    """Compute the height and width that the official resize leads to.

    Args:
        height, width: of the picture, 1 or more.
        shorter: what the shorter side becomes where the longer allows it (384).
        multiple: both results are floored to a multiple of this (32), and are at least one of it.
    """
    longest = longest_side(shorter)
    scale = shorter / min(height, width)
    sides = (height * scale, width * scale)
    if max(sides) > longest:
        sides = (sides[0] * longest / max(sides), sides[1] * longest / max(sides))
    down, across = (max(multiple, int(side + 0.5) // multiple * multiple) for side in sides)
    return down, across


def longest_side(shorter: int) -> int:
    """Compute the most pixels of a picture's longer side."""
    return int(LONGEST * shorter)


def resized(image: NDArray[np.uint8], shorter: int, multiple: int) -> NDArray[np.uint8]:
    """Resize RGB uint8 [height, width, 3] as `target_size` says; a picture of that size is given back as it is."""
    height, width = target_size(image.shape[0], image.shape[1], shorter, multiple)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def normalized(
    image: NDArray[np.uint8], mean: Sequence[float] = HALF, std: Sequence[float] = HALF
) -> NDArray[np.float32]:
    """Scale pixels to 0..1, subtract each channel's mean and divide by its deviation: float32 in the image's shape.

    By default to -1..1, to the bit as the official transform of ViLT.
    """
    scaled = image.astype(np.float32) / np.float32(255)
    mean_C: NDArray[np.float32] = np.array(mean, np.float32)
    std_C: NDArray[np.float32] = np.array(std, np.float32)
    return (scaled - mean_C) / std_C


def square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut RGB uint8 [height, width, 3] to its middle square and resize that to [side, side, 3] (bilinear)."""
    height, width = image.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    middle = image[top : top + least, left : left + least]
    if least == side:
        return middle
    return np.asarray(Image.fromarray(middle).resize((side, side), Image.Resampling.BILINEAR))


class _Changed:
    """Pictures of which only the pixels are changed."""

    def __init__(self, source: Pictures) -> None:
        self.source = source

    @property
    def feature_dim(self) -> int:
        """Width of the source's region features."""
        return self.source.feature_dim

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        """Say whether the source has region features of the image."""
        return self.source.has_regions(image, ground_truth=ground_truth)

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        """Read the source's regions."""
        return self.source.regions(image, ground_truth=ground_truth)

    def has_pixels(self, image: str) -> bool:
        """Say whether the source has the picture."""
        return self.source.has_pixels(image)


class Resized(_Changed):
    """Pictures resized as ViLT does; for `shorter` and `multiple` see `target_size`."""

    def __init__(self, source: Pictures, shorter: int, multiple: int) -> None:
        super().__init__(source)
        self.shorter, self.multiple = shorter, multiple

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read an image and resize it: uint8 [height, width, 3]."""
        return resized(self.source.pixels(image), self.shorter, self.multiple)


def framed(image: NDArray[np.uint8], height: int, width: int, *, crop: bool, resample: int) -> NDArray[np.uint8]:
    """Bring RGB uint8 [?, ?, 3] to [height, width, 3], as image processors of transformers do.

    Args:
        image: of any size.
        height, width: of the result.
        crop: keep the proportions and cut the middle out; otherwise stretch.
        resample: Pillow's number of a filter (2 bilinear, 3 bicubic).
    """
    if image.shape[:2] == (height, width):
        return image
    box = None
    if crop:
        scale = min(image.shape[0] / height, image.shape[1] / width)
        down, across = (image.shape[0] - height * scale) / 2, (image.shape[1] - width * scale) / 2
        box = (across, down, across + width * scale, down + height * scale)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(resample), box=box))


class Framed(_Changed):
    """Pictures of one size; for `height`, `width`, `crop` and `resample` see `framed`."""

    def __init__(self, source: Pictures, height: int, width: int, *, crop: bool, resample: int) -> None:
        super().__init__(source)
        self.height, self.width, self.crop, self.resample = height, width, crop, resample

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read an image as uint8 [height, width, 3]."""
        source = self.source.pixels(image)
        return framed(source, self.height, self.width, crop=self.crop, resample=self.resample)


class Square(_Changed):
    """Pictures cut to their middle square and resized to `side` pixels."""

    def __init__(self, source: Pictures, side: int) -> None:
        super().__init__(source)
        self.side = side

    def pixels(self, image: str) -> NDArray[np.uint8]:
        """Read an image as uint8 [side, side, 3]."""
        return square(self.source.pixels(image), self.side)

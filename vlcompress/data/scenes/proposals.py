"""Boxes from the pixels of a picture alone, for pictures that nobody has described.

The scenes' own boxes (`vlcompress.data.scenes.boxes`) come from what was drawn. Here whatever stands out from the
ground is a thing: pixels that differ enough from the median colour, grouped where they touch. It suits rendered scenes:
in a photograph nearly everything stands out.

Shape legend: H height, W width, C channels, N boxes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vlcompress.data.scenes.boxes import BOXES
from vlcompress.data.scenes.world import HEIGHT, WIDTH

STANDS_OUT = 40
"""Least difference from the ground in one channel, 0 to 255, after blurring: clutter differs by up to 38."""

LEAST_PIXELS = 30
"""Smaller groups are noise: the smallest thing that is drawn covers about 60 pixels."""

_REACH = 2
"""Pixels that a box goes beyond its thing, as the scenes' own boxes do."""
_BACKGROUND = 25
"""Side of the boxes that fill up: the middle of what the scenes' own background boxes have."""

Mask = NDArray[np.bool_]


def propose(picture: Image.Image) -> NDArray[np.float32]:
    """Propose boxes in a picture of WIDTH x HEIGHT pixels.

    Args:
        picture: RGB.

    Returns:
        float32 [8, 4], corners (x1, y1, x2, y2) in pixels: things, the largest first, then background.
    """
    mask_HW = _standing_out(picture)
    things = sorted(_boxes(mask_HW), key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))[:BOXES]
    return np.array([*things, *_background(mask_HW, BOXES - len(things))], dtype=np.float32)


def _standing_out(picture: Image.Image) -> Mask:
    pixels_HWC = np.asarray(picture.filter(ImageFilter.BoxBlur(1)), dtype=np.int16)
    ground_C = np.median(pixels_HWC.reshape(-1, 3), axis=0)
    return np.asarray(np.abs(pixels_HWC - ground_C).max(axis=2) > STANDS_OUT)


def _boxes(mask_HW: Mask) -> list[tuple[float, float, float, float]]:
    labels_HW = _grouped(_grown(mask_HW))  # grown, so that the stripes of one thing touch
    found = []
    for label in np.unique(labels_HW[mask_HW]):
        rows, columns = np.nonzero((labels_HW == label) & mask_HW)
        if len(rows) >= LEAST_PIXELS:
            found.append(
                (
                    float(max(columns.min() - _REACH, 0)),
                    float(max(rows.min() - _REACH, 0)),
                    float(min(columns.max() + 1 + _REACH, WIDTH)),
                    float(min(rows.max() + 1 + _REACH, HEIGHT)),
                )
            )
    return found


def _grouped(mask_HW: Mask) -> NDArray[np.int64]:
    """Number the groups of touching pixels (corners count): each pixel takes the highest number around it, until none
    changes."""
    labels_HW = np.where(mask_HW, np.arange(1, mask_HW.size + 1).reshape(mask_HW.shape), 0)
    while True:
        spread = np.where(mask_HW, _grown(labels_HW), 0)
        if (spread == labels_HW).all():
            return labels_HW
        labels_HW = spread


def _grown(values_HW: Any) -> Any:
    """Replace each pixel by the highest value of its 3 x 3 neighbourhood."""
    padded = np.pad(values_HW, 1)
    across = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    return np.maximum(np.maximum(across[:-2], across[1:-1]), across[2:])


def _background(mask_HW: Mask, count: int) -> list[tuple[float, float, float, float]]:
    """Choose the windows of a grid that show least of what stands out."""
    step, side = _BACKGROUND // 2, _BACKGROUND
    corners = [(x, y) for y in range(0, HEIGHT - side + 1, step) for x in range(0, WIDTH - side + 1, step)]
    covered = [int(mask_HW[y : y + side, x : x + side].sum()) for x, y in corners]
    best = sorted(range(len(corners)), key=lambda index: covered[index])[:count]
    return [(float(x), float(y), float(x + side), float(y + side)) for x, y in (corners[index] for index in best)]

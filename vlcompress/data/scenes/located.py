"""Pictures of whole scenes with what the renderer knows: where each thing is, pixel by pixel.

They are made in memory, from the seed, the split and the picture's number alone.

Shapes: N pictures of HEIGHT x WIDTH pixels, K things.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.scenes import world
from vlcompress.data.scenes.render import covered, decode, render

WIDTH, HEIGHT = world.WIDTH, world.HEIGHT
CLASSES = world.SHAPES
BACKGROUND = len(CLASSES)
"""The label of pixels that no thing covers."""
VERSION = 1
"""Changes whenever the same seed would give other pictures."""


@dataclass(frozen=True)
class Located:
    """One picture.

    Attributes:
        image: uint8 [HEIGHT, WIDTH, 3], RGB.
        boxes: float32 [K, 4], the corners x1, y1, x2, y2 around each thing's pixels.
        classes: int64 [K], indices of `CLASSES`.
        pixels: int64 [HEIGHT, WIDTH], indices of `CLASSES`, or BACKGROUND.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    pixels: NDArray[np.int64]


@cache
def located(split: str, count: int, seed: int = 0) -> tuple[Located, ...]:
    """Make the pictures of a split."""
    return tuple(_picture(Random(f"{seed}/located/{split}/{number}")) for number in range(count))


def _picture(rng: Random) -> Located:
    scene = world.sample_scene(rng)
    covers = [covered(thing) for thing in scene.things]
    classes = np.array([CLASSES.index(thing.shape) for thing in scene.things], dtype=np.int64)
    pixels = np.full((HEIGHT, WIDTH), BACKGROUND, dtype=np.int64)
    for cover, label in zip(covers, classes, strict=True):
        pixels[cover] = label
    boxes = np.array([_around(cover) for cover in covers], dtype=np.float32)
    return Located(np.asarray(decode(render(scene))), boxes, classes, pixels)


def _around(cover: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

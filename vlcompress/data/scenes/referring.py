"""Expressions that name one thing of a scene and no other, and the annotated boxes that they refer to."""

from random import Random

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.scenes.phrases import only
from vlcompress.data.scenes.world import HEIGHT, WIDTH, Scene, Thing

EXPRESSIONS = 2
"""Most expressions of one thing."""


def true_boxes(scene: Scene) -> NDArray[np.float32]:
    """Give the box of every thing: float32 [things, 4], corners in pixels inside the picture, in the scene's order."""
    return np.array([_corners(thing) for thing in scene.things], dtype=np.float32)


def _corners(thing: Thing) -> tuple[float, float, float, float]:
    # Whole pixels, so that x + width is x2 again after the file's way of writing a box.
    left, top = max(0, round(thing.x - thing.radius)), max(0, round(thing.y - thing.radius))
    return left, top, min(WIDTH, round(thing.x + thing.radius)), min(HEIGHT, round(thing.y + thing.radius))


def expressions(scene: Scene, thing: Thing, rng: Random) -> list[str]:
    """Name a thing by what it looks like (RefCOCO+ has no words of place), each expression once; [] where none fits."""
    found: dict[str, None] = {}
    for _ in range(3 * EXPRESSIONS):
        description = only(scene, thing, rng)
        if description is not None and len(found) < EXPRESSIONS:
            found[f"the {description.singular}"] = None
    return list(found)

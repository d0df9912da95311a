"""A stand-in for an object detector: where it looks in a picture, and what class and attribute it reports there.

It proposes a jittered box around every thing, sometimes a second and looser one, and fills up with boxes of background.
Its reports are wrong at times, with a lower confidence, as a real detector's are. The region *features* come from the
pixels alone (`encoder`); nothing here reaches them but the coordinates of the boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from vlcompress.data.scenes.world import COLORS, HEIGHT, SHAPES, SIZES, TEXTURES, WIDTH, Scene, Thing

BOXES = 8
"""Boxes of a picture."""

OBJECT_CLASSES = ("background", *(f"{size} {shape}" for size in SIZES for shape in SHAPES))
"""The detector's classes; the position is the `objects_id` of the region file."""

ATTRIBUTE_CLASSES = ("none", *(f"{color} {texture}" for color in COLORS for texture in TEXTURES))
"""The detector's attributes; the position is the `attrs_id` of the region file."""

_JITTER = 0.07
_LOOSE_JITTER = 0.25
_SECOND_BOX_RATE = 0.1
_ERROR_RATE = 0.05
_MAX_OVERLAP = 0.25
"""Most of a background box's area that a thing may cover."""


@dataclass(frozen=True)
class Box:
    """One detection.

    Attributes:
        x1, y1, x2, y2: corners in pixels, inside the picture, at least one pixel apart.
        thing: what it really shows, None for background; for tests, never written.
        object_id, attribute_id: what the detector reports, sometimes wrongly.
        object_confidence, attribute_confidence: in (0, 1).
    """

    x1: float
    y1: float
    x2: float
    y2: float
    thing: Thing | None
    object_id: int
    object_confidence: float
    attribute_id: int
    attribute_confidence: float


def detect(scene: Scene, rng: Random) -> list[Box]:
    """Propose BOXES detections, the most confident first."""
    boxes = [_around(thing, _JITTER, rng) for thing in scene.things]
    boxes += [_around(thing, _LOOSE_JITTER, rng) for thing in scene.things if rng.random() < _SECOND_BOX_RATE]
    boxes += [_background(scene.things, rng) for _ in range(BOXES - len(boxes))]
    return sorted(boxes[:BOXES], key=lambda box: -box.object_confidence)


def _around(thing: Thing, jitter: float, rng: Random) -> Box:
    reach = thing.radius + 1

    def moved(value: float, limit: int) -> float:
        return min(max(value + rng.uniform(-jitter, jitter) * 2 * thing.radius, 0.0), float(limit))

    corners = (
        moved(thing.x - reach, WIDTH),
        moved(thing.y - reach, HEIGHT),
        moved(thing.x + reach, WIDTH),
        moved(thing.y + reach, HEIGHT),
    )
    object_id, object_confidence = _report(OBJECT_CLASSES.index(f"{thing.size} {thing.shape}"), OBJECT_CLASSES, rng)
    attribute = ATTRIBUTE_CLASSES.index(f"{thing.color} {thing.texture}")
    attribute_id, attribute_confidence = _report(attribute, ATTRIBUTE_CLASSES, rng)
    return Box(*corners, thing, object_id, object_confidence, attribute_id, attribute_confidence)


def _background(things: Sequence[Thing], rng: Random) -> Box:
    """Propose a box that shows little of any thing; the last of many tries is taken whatever it shows."""
    for _ in range(50):
        width, height = rng.uniform(14, 36), rng.uniform(14, 36)
        x, y = rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height)
        if all(_covered(x, y, width, height, thing) <= _MAX_OVERLAP for thing in things):
            break
    confidence, attribute_confidence = _rounded(rng.uniform(0.1, 0.4)), _rounded(rng.uniform(0.05, 0.3))
    return Box(x, y, x + width, y + height, None, 0, confidence, 0, attribute_confidence)


def _covered(x: float, y: float, width: float, height: float, thing: Thing) -> float:
    """Measure the fraction of the box that the square around the thing covers."""
    across = min(x + width, thing.x + thing.radius) - max(x, thing.x - thing.radius)
    down = min(y + height, thing.y + thing.radius) - max(y, thing.y - thing.radius)
    return max(across, 0.0) * max(down, 0.0) / (width * height)


def _report(true: int, classes: Sequence[str], rng: Random) -> tuple[int, float]:
    if rng.random() < _ERROR_RATE:
        return rng.randrange(len(classes)), _rounded(rng.uniform(0.3, 0.7))
    return true, _rounded(rng.uniform(0.6, 0.99))


def _rounded(confidence: float) -> float:
    return round(confidence, 3)

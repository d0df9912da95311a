"""What is in a scene: a few coloured shapes on a cluttered ground, sampled from a seed."""

import math
from dataclasses import dataclass
from random import Random

WIDTH, HEIGHT = 128, 96
"""Size of a picture in pixels."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "white")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")

MIN_THINGS, MAX_THINGS = 2, 4
_RADII = {"small": (8.0, 9.5), "large": (13.5, 16.0)}
_GAP = 3.0
"""Least distance in pixels between two things, and from a thing to the picture's edge."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        shape, color, size, texture: its attributes, from the lists of this module.
        x, y: its centre in pixels, y downwards.
        radius: of the circle around it, in pixels.
        angle: how far it is turned, in radians.
    """

    shape: str
    color: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """A scene: 2 to 4 things that do not overlap.

    Attributes:
        things: in no particular order.
        ground: RGB of the background, 0 to 255.
        seed: of everything in the picture that no question asks about (clutter, shades, noise).
    """

    things: tuple[Thing, ...]
    ground: tuple[int, int, int]
    seed: int


def sample_scene(rng: Random) -> Scene:
    """Sample a scene.

    The things share a palette of three colours and three shapes, so that there is something to count, to
    compare and to tell apart; over all scenes every attribute value is equally likely.
    """
    count = rng.randint(MIN_THINGS, MAX_THINGS)
    colors = rng.sample(COLORS, 3)
    shapes = rng.sample(SHAPES, 3)
    things: list[Thing] = []
    while len(things) < count:
        thing = _place(_thing(rng, rng.choice(shapes), rng.choice(colors)), things, rng)
        things = [] if thing is None else [*things, thing]  # no room left: begin again
    grey = rng.randint(95, 150)
    ground = (grey + rng.randint(-12, 12), grey + rng.randint(-12, 12), grey + rng.randint(-12, 12))
    return Scene(tuple(things), ground, rng.getrandbits(32))


def _thing(rng: Random, shape: str, color: str) -> Thing:
    size = rng.choice(SIZES)
    radius = rng.uniform(*_RADII[size])
    return Thing(shape, color, size, rng.choice(TEXTURES), 0.0, 0.0, radius, rng.uniform(-0.25, 0.25))


def _place(thing: Thing, others: list[Thing], rng: Random) -> Thing | None:
    margin = thing.radius + _GAP
    for _ in range(60):
        x, y = rng.uniform(margin, WIDTH - margin), rng.uniform(margin, HEIGHT - margin)
        if all(math.hypot(x - o.x, y - o.y) > thing.radius + o.radius + _GAP for o in others):
            return Thing(thing.shape, thing.color, thing.size, thing.texture, x, y, thing.radius, thing.angle)
    return None

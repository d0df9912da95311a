"""Labelled picture sets in CIFAR-100's binary format: 32 pixels a side, fine and coarse classes.

A picture of "shapes", "colours" or "concepts" shows one thing, and two of its attributes are the fine class, the first
of them alone the coarse one; the rest, and place and ground, tell nothing. A picture of "counts" shows one to four
small things, and how many is the class. "concepts" is for pre-training: its pictures are not those of the others.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from vlcompress.data.scenes.render import decode, render
from vlcompress.data.scenes.world import COLORS, HEIGHT, SHAPES, TEXTURES, WIDTH, Scene, Thing

SIDE = 32
"""Width and height of a picture in pixels (CIFAR)."""

FOLDER = "cifar-100-binary"
_RADIUS = (10.5, 14.5)
_SMALL_RADIUS = (4.0, 5.5)
_ATTRIBUTES = {"shape": SHAPES, "color": COLORS, "texture": TEXTURES}


@dataclass(frozen=True)
class ClassSet:
    """What a set's labels are, and how a picture of one is made.

    Attributes:
        fine: names of the classes.
        coarse: names of groups of as many fine classes each, in the same order.
        draw: makes a picture of a fine class.
    """

    fine: tuple[str, ...]
    coarse: tuple[str, ...]
    draw: Callable[[int, Random], Image.Image]


def write_classes(folder: Path, *, train: int, test: int, seed: int, classes: str = "shapes") -> None:
    """Write ``train.bin``, ``test.bin`` and the two lists of names, as CIFAR-100's binary version has them."""
    root, chosen = folder / FOLDER, CLASS_SETS[classes]
    root.mkdir(parents=True)
    start = str(seed) if classes == "shapes" else f"{seed}/{classes}"
    for name, count in (("train", train), ("test", test)):
        with (root / f"{name}.bin").open("wb") as file:
            file.writelines(_records(chosen, f"{start}/{name}", count))
    for name, names in (("fine", chosen.fine), ("coarse", chosen.coarse)):
        (root / f"{name}_label_names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def _records(chosen: ClassSet, seed: str, count: int) -> Iterator[bytes]:
    """Pack pictures as records of 3,074 bytes: coarse label, fine label, then red, green and blue planes."""
    together = len(chosen.fine) // len(chosen.coarse)
    for number in range(count):
        rng = Random(f"{seed}/{number}")
        fine = rng.randrange(len(chosen.fine))
        planes = np.asarray(chosen.draw(fine, rng)).transpose(2, 0, 1)
        yield bytes((fine // together, fine)) + planes.tobytes()


def _pair(first: str, second: str) -> ClassSet:
    """Define the set whose fine classes are the pairs of two attributes' values."""
    fine = tuple(f"{b} {a}" for a, b in product(_ATTRIBUTES[first], _ATTRIBUTES[second]))
    return ClassSet(fine, _ATTRIBUTES[first], partial(_draw_one, first, second))


def _draw_one(first: str, second: str, fine: int, rng: Random) -> Image.Image:
    """Cut a thing out of a scene of its own, off centre."""
    radius = rng.uniform(*_RADIUS)
    x, y = WIDTH / 2, HEIGHT / 2
    values = {name: rng.choice(values) for name, values in _ATTRIBUTES.items() if name not in (first, second)}
    one, other = divmod(fine, len(_ATTRIBUTES[second]))
    values |= {first: _ATTRIBUTES[first][one], second: _ATTRIBUTES[second][other]}
    shape, color, texture = (values[name] for name in _ATTRIBUTES)
    return _cut((Thing(shape, color, "large", texture, x, y, radius, rng.uniform(-0.25, 0.25)),), rng, shift=3)


def _draw_some(fine: int, rng: Random) -> Image.Image:
    """Cut `fine` + 1 things of any kind out of a scene; they do not touch."""
    things: list[Thing] = []
    while len(things) <= fine:
        radius = rng.uniform(*_SMALL_RADIUS)
        reach = SIDE / 2 - 1 - radius
        x, y = WIDTH / 2 + rng.uniform(-reach, reach), HEIGHT / 2 + rng.uniform(-reach, reach)
        shape, color, texture = (rng.choice(values) for values in _ATTRIBUTES.values())
        if all(math.hypot(x - o.x, y - o.y) > radius + o.radius + 1 for o in things):
            things.append(Thing(shape, color, "small", texture, x, y, radius, rng.uniform(-0.25, 0.25)))
    return _cut(tuple(things), rng, shift=0)


def _cut(things: tuple[Thing, ...], rng: Random, *, shift: float) -> Image.Image:
    """Draw things on a ground of chance and cut the middle out, up to `shift` pixels aside."""
    grey = rng.randint(95, 150)
    ground = (grey + rng.randint(-12, 12), grey + rng.randint(-12, 12), grey + rng.randint(-12, 12))
    left = round(WIDTH / 2 - SIDE / 2 + rng.uniform(-shift, shift))
    top = round(HEIGHT / 2 - SIDE / 2 + rng.uniform(-shift, shift))
    scene = Scene(things, ground, rng.getrandbits(32))
    return decode(render(scene)).crop((left, top, left + SIDE, top + SIDE))


CLASS_SETS = {
    "shapes": _pair("shape", "texture"),
    "colours": _pair("color", "texture"),
    "concepts": _pair("shape", "color"),
    "counts": ClassSet(("one", "two", "three", "four"), ("few", "many"), _draw_some),
}
FINE, COARSE = CLASS_SETS["shapes"].fine, CLASS_SETS["shapes"].coarse

"""A labelled picture set in CIFAR-100's binary format: one thing a picture, 18 fine and 6 coarse classes.

Shape and texture are the fine class, shape alone the coarse one; colour, size, place and ground tell nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from vlcompress.data.scenes.render import decode, render
from vlcompress.data.scenes.world import COLORS, HEIGHT, SHAPES, TEXTURES, WIDTH, Scene, Thing

SIDE = 32
"""Width and height of a picture in pixels (CIFAR)."""

FINE = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)
COARSE = SHAPES
FOLDER = "cifar-100-binary"
_RADIUS = (10.5, 14.5)


def write_classes(folder: Path, *, train: int, test: int, seed: int) -> None:
    """Write ``train.bin``, ``test.bin`` and the two lists of names, as CIFAR-100's binary version has them."""
    root = folder / FOLDER
    root.mkdir(parents=True)
    for name, count in (("train", train), ("test", test)):
        with (root / f"{name}.bin").open("wb") as file:
            file.writelines(_records(f"{seed}/{name}", count))
    for name, classes in (("fine", FINE), ("coarse", COARSE)):
        (root / f"{name}_label_names.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")


def _records(seed: str, count: int) -> Iterator[bytes]:
    """Give records of 3,074 bytes: coarse label, fine label, then red, green and blue planes."""
    for number in range(count):
        rng = Random(f"{seed}/{number}")
        fine = rng.randrange(len(FINE))
        coarse = fine // len(TEXTURES)
        planes = np.asarray(_picture(SHAPES[coarse], TEXTURES[fine % len(TEXTURES)], rng)).transpose(2, 0, 1)
        yield bytes((coarse, fine)) + planes.tobytes()


def _picture(shape: str, texture: str, rng: Random) -> Image.Image:
    """Cut a thing out of a scene of its own, off centre."""
    radius = rng.uniform(*_RADIUS)
    x, y = WIDTH / 2, HEIGHT / 2
    thing = Thing(shape, rng.choice(COLORS), "large", texture, x, y, radius, rng.uniform(-0.25, 0.25))
    grey = rng.randint(95, 150)
    ground = (grey + rng.randint(-12, 12), grey + rng.randint(-12, 12), grey + rng.randint(-12, 12))
    left = round(x - SIDE / 2 + rng.uniform(-3, 3))
    top = round(y - SIDE / 2 + rng.uniform(-3, 3))
    scene = Scene((thing,), ground, rng.getrandbits(32))
    return decode(render(scene)).crop((left, top, left + SIDE, top + SIDE))

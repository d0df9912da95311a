"""Drawing a scene with Pillow: background, clutter, shapes with textures, noise, and JPEG at the end.

Everything is drawn at twice the size and halved, which smooths the edges.
"""

import io
import math
from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlcompress.data.scenes.world import HEIGHT, WIDTH, Scene, Thing

Point = tuple[float, float]
Rgb = tuple[int, int, int]

_RGB: dict[str, Rgb] = {
    "red": (205, 40, 40),
    "orange": (240, 135, 25),
    "yellow": (238, 222, 60),
    "green": (50, 155, 65),
    "blue": (45, 85, 210),
    "purple": (145, 55, 175),
    "white": (243, 243, 243),
}
_SCALE = 2
_SHADE = 14
"""A thing's colour differs from its name's colour by up to this much in each channel."""
_DARK = 0.32
"""Brightness of stripes and dots, as a fraction of the thing's colour."""
_NOISE = 8
_JPEG_QUALITY = 92
_CLUTTER = (6, 12)


def render(scene: Scene) -> bytes:
    """Draw a scene and give it as a JPEG file of WIDTH x HEIGHT pixels; the same scene gives the same bytes."""
    rng = Random(scene.seed)
    canvas = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), scene.ground)
    _draw_clutter(ImageDraw.Draw(canvas), scene.ground, rng)
    for thing in scene.things:
        _draw_thing(canvas, thing, rng)
    file = io.BytesIO()
    _add_noise(canvas.reduce(_SCALE), scene.seed).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def decode(picture: bytes) -> Image.Image:
    """Decode a picture file to RGB."""
    return Image.open(io.BytesIO(picture)).convert("RGB")


def _draw_clutter(draw: ImageDraw.ImageDraw, ground: Rgb, rng: Random) -> None:
    """Scatter thin lines and specks in shades of the ground: edges that belong to nothing one can ask about."""
    for _ in range(rng.randint(*_CLUTTER)):
        x, y = rng.uniform(0, WIDTH * _SCALE), rng.uniform(0, HEIGHT * _SCALE)
        angle, length = rng.uniform(0, math.tau), rng.uniform(6, 50)
        shade = rng.choice((-38, -24, 24, 38))
        color = (ground[0] + shade, ground[1] + shade, ground[2] + shade)
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        if rng.random() < 0.7:
            draw.line([(x, y), end], fill=color, width=rng.randint(2, 4))
        else:
            draw.ellipse([x, y, x + length / 4, y + length / 4], fill=color)


def covered(thing: Thing) -> NDArray[np.bool_]:
    """Mark the pixels that a thing covers by at least half, bool [HEIGHT, WIDTH]."""
    canvas = Image.new("L", (WIDTH * _SCALE, HEIGHT * _SCALE), 0)
    mask, corner = _stencil(thing)
    canvas.paste(mask, corner)
    return np.asarray(canvas.reduce(_SCALE)) >= 128


def _draw_thing(canvas: Image.Image, thing: Thing, rng: Random) -> None:
    mask, corner = _stencil(thing)
    canvas.paste(_fill(thing, mask.width, rng), corner, mask)


def _stencil(thing: Thing) -> tuple[Image.Image, tuple[int, int]]:
    """Draw the thing's outline, 255 inside; say where its upper left corner is."""
    side = math.ceil(2 * thing.radius * _SCALE) + 2
    mask = Image.new("L", (side, side), 0)
    _draw_shape(ImageDraw.Draw(mask), thing, side / 2)
    return mask, (round(thing.x * _SCALE - side / 2), round(thing.y * _SCALE - side / 2))


def _fill(thing: Thing, side: int, rng: Random) -> Image.Image:
    """Paint a patch in the thing's colour and texture."""
    red, green, blue = (max(0, min(255, value + rng.randint(-_SHADE, _SHADE))) for value in _RGB[thing.color])
    patch = Image.new("RGB", (side, side), (red, green, blue))
    dark = (int(red * _DARK), int(green * _DARK), int(blue * _DARK))
    draw = ImageDraw.Draw(patch)
    period = side / 5
    if thing.texture == "striped":
        for i in range(6):
            draw.rectangle([i * period, 0, (i + 0.4) * period, side], fill=dark)
    elif thing.texture == "dotted":
        dot = period * 0.29
        for i in range(6):
            for j in range(6):
                x, y = (i + 0.5 * (j % 2)) * period, (j + 0.5) * period
                draw.ellipse([x - dot, y - dot, x + dot, y + dot], fill=dark)
    return patch


def _draw_shape(draw: ImageDraw.ImageDraw, thing: Thing, radius: float) -> None:
    """Draw the thing's outline, filled with 255, in a square patch of side 2 * radius."""
    if thing.shape in ("circle", "ring"):
        edge = 0.1 * radius
        draw.ellipse([edge, edge, 2 * radius - edge, 2 * radius - edge], fill=255)
        if thing.shape == "ring":
            hole = 0.52 * radius
            draw.ellipse([radius - hole, radius - hole, radius + hole, radius + hole], fill=0)
    else:
        draw.polygon(_outline(thing.shape, thing.angle, radius), fill=255)


def _outline(shape: str, angle: float, radius: float) -> list[Point]:
    if shape == "square":
        return _polygon([1.0] * 4, angle + math.pi / 4, radius)
    if shape == "triangle":
        return _polygon([1.0] * 3, angle, radius)
    if shape == "star":
        return _polygon([1.0, 0.42] * 5, angle, radius)
    arm = 0.3
    corners = [(-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm)]
    cross = corners + [(-x, -y) for x, y in corners]
    return [_turned(0.94 * x, 0.94 * y, angle, radius) for x, y in cross]


def _polygon(lengths: Sequence[float], angle: float, radius: float) -> list[Point]:
    """Place corners around the centre, the first one on top, at these fractions of the radius."""
    step = math.tau / len(lengths)
    return [
        _turned(length * math.sin(i * step), -length * math.cos(i * step), angle, radius)
        for i, length in enumerate(lengths)
    ]


def _turned(x: float, y: float, angle: float, radius: float) -> Point:
    cos, sin = math.cos(angle), math.sin(angle)
    return radius * (1 + x * cos - y * sin), radius * (1 + x * sin + y * cos)


def _add_noise(picture: Image.Image, seed: int) -> Image.Image:
    """Add whole-number noise to every channel: integers from the generator are the same on every machine."""
    noise = np.random.default_rng(seed).integers(-_NOISE, _NOISE + 1, size=(HEIGHT, WIDTH, 3), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))

"""Scenes: things stay inside the picture and apart, and attributes are equally likely."""

import math
from collections import Counter
from random import Random

from vlcompress.data.scenes.world import COLORS, HEIGHT, MAX_THINGS, MIN_THINGS, SHAPES, WIDTH, sample_scene

SCENES = [sample_scene(Random(seed)) for seed in range(300)]


def test_things_are_inside_and_do_not_overlap() -> None:
    for scene in SCENES:
        assert MIN_THINGS <= len(scene.things) <= MAX_THINGS
        for i, thing in enumerate(scene.things):
            assert thing.radius < thing.x < WIDTH - thing.radius
            assert thing.radius < thing.y < HEIGHT - thing.radius
            for other in scene.things[:i]:
                assert math.hypot(thing.x - other.x, thing.y - other.y) > thing.radius + other.radius


def test_colors_and_shapes_are_equally_likely() -> None:
    things = [thing for scene in SCENES for thing in scene.things]
    for values, name in ((COLORS, "color"), (SHAPES, "shape")):
        counts = Counter(getattr(thing, name) for thing in things)
        assert set(counts) == set(values)
        assert max(counts.values()) < 1.5 * min(counts.values())


def test_the_seed_decides() -> None:
    assert sample_scene(Random(5)) == SCENES[5]
    assert SCENES[5] != SCENES[6]

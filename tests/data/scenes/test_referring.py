"""Expressions name one thing only; annotated boxes lie around it, in whole pixels inside the picture."""

from random import Random

import numpy as np

from vlcompress.data.scenes.referring import EXPRESSIONS, expressions, true_boxes
from vlcompress.data.scenes.world import HEIGHT, WIDTH, sample_scene


def test_an_expression_fits_its_thing_and_no_other() -> None:
    for number in range(100):
        rng = Random(number)
        scene = sample_scene(rng)
        for thing in scene.things:
            said = expressions(scene, thing, rng)
            assert len(set(said)) == len(said) <= EXPRESSIONS
            for text in said:
                wanted = {word for word in text.split() if word not in ("the", "thing")}
                fitting = [one for one in scene.things if wanted <= {one.size, one.color, one.texture, one.shape}]
                assert fitting == [thing]


def test_boxes_are_around_the_things() -> None:
    for number in range(50):
        scene = sample_scene(Random(number))
        boxes = true_boxes(scene)
        assert boxes.shape == (len(scene.things), 4)
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= WIDTH
        assert boxes[:, 3].max() <= HEIGHT
        np.testing.assert_array_equal(boxes, np.round(boxes))
        for thing, (x1, y1, x2, y2) in zip(scene.things, boxes.tolist(), strict=True):
            assert abs((x1 + x2) / 2 - thing.x) <= 1
            assert abs((y1 + y2) / 2 - thing.y) <= 1
            assert x2 - x1 <= 2 * thing.radius + 1

"""Region features and boxes: from pixels alone, the same every time, and telling the attributes apart."""

import hashlib
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vlcompress.data.scenes.boxes import ATTRIBUTE_CLASSES, BOXES, OBJECT_CLASSES, detect
from vlcompress.data.scenes.encoder import FEATURE_DIM, encode
from vlcompress.data.scenes.render import decode, render
from vlcompress.data.scenes.world import COLORS, HEIGHT, SHAPES, WIDTH, sample_scene


def test_boxes_are_inside_the_picture_and_cover_every_thing() -> None:
    for seed in range(50):
        scene = sample_scene(Random(seed))
        boxes = detect(scene, Random(seed))
        assert len(boxes) == BOXES
        assert all(0 <= b.x1 < b.x2 - 1 and b.x2 <= WIDTH and 0 <= b.y1 < b.y2 - 1 and b.y2 <= HEIGHT for b in boxes)
        assert set(scene.things) <= {box.thing for box in boxes}
        confidences = [box.object_confidence for box in boxes]
        assert confidences == sorted(confidences, reverse=True)


def test_reports_are_mostly_right() -> None:
    boxes = [box for seed in range(100) for box in detect(sample_scene(Random(seed)), Random(seed)) if box.thing]
    right = [OBJECT_CLASSES[box.object_id] == f"{box.thing.size} {box.thing.shape}" for box in boxes if box.thing]
    assert 0.9 < np.mean(right) < 1
    assert all(0 <= box.attribute_id < len(ATTRIBUTE_CLASSES) for box in boxes)


def test_the_same_pixels_give_the_same_features_wherever_they_are() -> None:
    picture = decode(render(sample_scene(Random(3))))
    canvas = picture.crop((-10, -20, 100, 76))
    box = np.array([[30, 40, 60, 70]], dtype=np.float32)
    moved = box + np.array([10, 20, 10, 20], dtype=np.float32)
    assert encode(picture, box).tobytes() == encode(canvas, moved).tobytes()


def test_features_do_not_depend_on_the_other_boxes() -> None:
    picture = decode(render(sample_scene(Random(4))))
    boxes = np.array([[0, 0, 30, 30], [50, 20, 70, 61], [20, 10, 40, 33]], dtype=np.float32)
    features = encode(picture, boxes)
    assert features.shape == (3, FEATURE_DIM)
    assert features.dtype == np.float32
    assert encode(picture, boxes[1:2]).tobytes() == features[1:2].tobytes()


def test_features_are_those_that_shipped_weights_were_trained_on() -> None:
    """A change here makes every earlier data set and pre-trained model worthless: raise GENERATOR_VERSION with it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    boxes = np.array([[3, 5, 40, 31], [0, 0, 50, 40]], dtype=np.float32)
    features = encode(Image.fromarray(pixels), boxes)
    assert hashlib.sha256(features.tobytes()).hexdigest()[:16] == "773c7be5acec4b66"


@pytest.fixture(scope="module")
def things() -> tuple[NDArray[np.float64], list[tuple[str, str]]]:
    features, values = [], []
    for seed in range(260):
        scene = sample_scene(Random(seed))
        boxes = [box for box in detect(scene, Random(seed)) if box.thing]
        corners = np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], dtype=np.float32)
        features.append(encode(decode(render(scene)), corners))
        values += [(box.thing.color, box.thing.shape) for box in boxes if box.thing]
    return np.concatenate(features).astype(np.float64), values


@pytest.mark.parametrize(("names", "place", "least"), [(COLORS, 0, 0.8), (SHAPES, 1, 0.7)])
def test_a_linear_probe_reads_the_attributes(
    things: tuple[NDArray[np.float64], list[tuple[str, str]]], names: tuple[str, ...], place: int, least: float
) -> None:
    features, values = things
    labels = np.array([names.index(value[place]) for value in values])
    inputs = np.hstack([features, np.ones((len(features), 1))])
    train = len(labels) * 3 // 4
    gram = inputs[:train].T @ inputs[:train] + 3 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs[:train].T @ np.eye(len(names))[labels[:train]])
    assert np.mean((inputs[train:] @ weights).argmax(1) == labels[train:]) > least

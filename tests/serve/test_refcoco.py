"""Expressions: the model's own region, its box in pixels of the picture as it was sent."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.cells import NAMES, picture, sample, softmax

EXPRESSION = "the red circle"


def test_regions_are_ranked_as_the_model_does_with_boxes_in_pixels(cell: Any) -> None:
    one = cell("uniter", "refcoco")
    found = one.post(expression=EXPRESSION, picture=NAMES[0], top_k=100)
    expected = softmax(one.logits(sample(EXPRESSION, NAMES[0]))[0])
    assert len(found["answers"]) == 8
    for answer in found["answers"]:
        assert answer["score"] == pytest.approx(expected[answer["region"]], abs=1e-4)
        box = picture(NAMES[0]).regions.pixel_boxes[answer["region"]]
        assert answer["pixels"] == pytest.approx(box.tolist(), abs=0.1)


def test_pixels_are_those_of_the_picture_as_it_is_shown(cell: Any) -> None:
    """A picture of a camera held upright, larger than a JPEG is decoded to."""
    turned, file = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6
    Image.open(io.BytesIO(picture(NAMES[0]).jpeg)).resize((2400, 1800)).save(file, "JPEG", exif=turned)
    image = base64.b64encode(file.getvalue()).decode()
    boxes = [[0.0, 0.0, 0.5, 0.25], [0.25, 0.5, 1.0, 1.0]]
    found = cell("uniter", "refcoco").post(expression=EXPRESSION, image=image, boxes=boxes)
    pixels = {answer["region"]: answer["pixels"] for answer in found["answers"]}
    assert pixels == {0: [0.0, 0.0, 900.0, 600.0], 1: [450.0, 1200.0, 1350.0, 1200.0]}


def npz(**arrays: Any) -> str:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return base64.b64encode(file.getvalue()).decode()


def test_features_come_as_lists_or_as_an_npz_file(cell: Any) -> None:
    one, seen = cell("uniter", "refcoco"), picture(NAMES[1]).regions
    boxes = np.clip(seen.normalized_boxes, 0, 1)
    lists = {"features": seen.features.tolist(), "boxes": boxes.tolist()}
    expected = one.post(expression=EXPRESSION, **lists)["answers"]
    assert "pixels" not in expected[0]
    packed = npz(features=seen.features, boxes=boxes)
    assert one.post(expression=EXPRESSION, features=packed)["answers"] == expected
    sized = one.post(expression=EXPRESSION, features=packed, width=128, height=96)["answers"]
    assert sized[0]["pixels"] == pytest.approx(seen.pixel_boxes[sized[0]["region"]].tolist(), abs=0.1)


X = np.ones((2, 128), np.float32)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ("%%%", "'features' is not valid base64"),
        ("aGVsbG8=", "'features' is text, but no .npz file in base64"),
        (npz(other=X), "lacks a matrix 'features'"),
        (npz(features=X[0]), "lacks a matrix 'features'"),
        (npz(features=X.astype(int)), "holds something else than floating-point numbers"),
        (npz(features=X.astype(object)), "no .npz file in base64"),
        (npz(features=X), "'boxes' is not a list of rows of 4 numbers"),
        (npz(features=X[:, :5], boxes=X[:, :4]), "'features' is not a list of rows of 128 numbers"),
        (npz(features=X, boxes=X[:1, :4] * [[0.0, 0.0, 1.0, 1.0]]), "there are 2 rows of features and 1 boxes"),
        (npz(features=np.zeros((140_000, 128), np.float32)), "unpacks to more than 64 MiB"),
    ],
)
def test_a_broken_npz_file_is_told(cell: Any, features: str, says: str) -> None:
    code, error = cell("uniter", "refcoco").post(expression=EXPRESSION, features=features)
    assert (code, says in error) == (400, True), error

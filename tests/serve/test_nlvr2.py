"""Statements about two images: the model's own answer, in either order, and every mistake with its message."""

from typing import Any

import numpy as np
import pytest

from tests.serve.cells import NAMES, picture, sample, softmax
from vlcompress.data.pixels import resized
from vlcompress.models.base import Sample
from vlcompress.serve.tasks.images import decoded

STATEMENT = "the left picture has a red circle"


def told(name: str, regions: int = 8) -> dict[str, Any]:
    """Tell a built-in picture by the features of some of its regions."""
    seen = picture(name).regions
    boxes = np.clip(seen.normalized_boxes[:regions], 0, 1)
    return {"features": seen.features[:regions].tolist(), "boxes": boxes.tolist()}


@pytest.mark.parametrize("family", ["lxmert", pytest.param("uniter", marks=pytest.mark.nightly)])
def test_a_statement_is_judged_as_the_model_does_and_the_sides_matter(cell: Any, family: str) -> None:
    one = cell(family, "nlvr2")
    for left, right in ((NAMES[0], NAMES[1]), (NAMES[1], NAMES[0])):
        found = one.post(statement=STATEMENT, left={"picture": left}, right={"picture": right})
        expected = softmax(one.logits(sample(STATEMENT, left, right))[0])
        scores = {answer["label"]: answer["score"] for answer in found["answers"]}
        assert [scores["False"], scores["True"]] == pytest.approx(expected.tolist(), abs=1e-4)
        assert (found["left"]["boxes_from"], len(found["right"]["boxes"])) == ("stored", 8)
    assert found != one.post(statement=STATEMENT, left={"picture": NAMES[0]}, right={"picture": NAMES[1]})


@pytest.mark.nightly
def test_a_statement_about_pixels_is_judged_as_the_model_does(cell: Any) -> None:
    one = cell("vilt", "nlvr2")
    reads = one.family.preprocessing(one.config)
    pixels = [
        resized(np.asarray(decoded(picture(name).jpeg)[0]), reads["shorter"], reads["multiple"]) for name in NAMES[:2]
    ]
    ids_T = sample(STATEMENT).ids[: reads["longest_text"]]
    expected = softmax(one.logits(Sample(ids_T, np.zeros_like(ids_T), tuple(pixels)))[0])
    found = one.post(statement=STATEMENT, left={"picture": NAMES[0]}, right={"picture": NAMES[1]})
    scores = {answer["label"]: answer["score"] for answer in found["answers"]}
    assert [scores["False"], scores["True"]] == pytest.approx(expected.tolist(), abs=1e-4)


def test_two_images_may_have_other_numbers_of_regions_where_the_model_masks_them(cell: Any) -> None:
    asked = {"statement": STATEMENT, "left": told(NAMES[0], 3), "right": told(NAMES[1], 8)}
    found = cell("uniter", "nlvr2").post(**asked)
    assert (len(found["left"]["boxes"]), len(found["right"]["boxes"])) == (3, 8)
    code, error = cell("lxmert", "nlvr2").post(**asked)
    assert (code, "the left image has 3 regions and the right one 8: model 'm' has no mask" in error) == (400, True)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "'statement' of request is missing: give some text"),
        ({"statement": "x"}, "'left' of request is missing: give an image"),
        ({"statement": "x", "left": {"picture": NAMES[0]}}, "'right' of request is missing: give an image"),
        ({"statement": "x", "left": 5, "right": 5}, "give exactly one of picture, image, features: there is none"),
        ({"statement": "x", "left": {"image": "aGk="}, "right": {"picture": NAMES[0]}}, "not a picture in one of"),
    ],
)
def test_mistakes_are_told(cell: Any, asked: dict[str, Any], says: str) -> None:
    code, error = cell("uniter", "nlvr2").post(**asked)
    assert (code, says in error) == (400, True), error

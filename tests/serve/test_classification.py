"""Classes of pictures: the model's own, whatever the picture's size and mode."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.cells import softmax
from vlcompress.data.pixels import square
from vlcompress.models.base import Sample


def shown(mode: str) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 70, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def sent(picture: Image.Image, kind: str = "PNG", **more: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA"])
def test_a_picture_is_classified_as_the_model_does(cell: Any, mode: str) -> None:
    one = cell("resnet", "classification")
    pixels = square(np.asarray(shown(mode).convert("RGB")), one.config["image_size"])
    nothing = np.zeros(0, np.int64)
    expected = softmax(one.logits(Sample(nothing, nothing, (pixels,)))[0])
    found = {answer["label"]: answer["score"] for answer in one.post(image=sent(shown(mode)))["answers"]}
    assert [found[label] for label in ("circle", "square", "star")] == pytest.approx(expected.tolist(), abs=1e-4)


def test_printers_colours_are_read_and_of_an_animation_its_first_picture(cell: Any) -> None:
    one = cell("resnet", "classification")
    assert len(one.post(image=sent(shown("CMYK"), "JPEG"))["answers"]) == 3
    first, other = shown("RGB"), Image.new("RGB", (70, 48), "red")
    animated = sent(first, "WEBP", save_all=True, append_images=[other], lossless=True)
    assert one.post(image=animated)["answers"] == one.post(image=sent(first))["answers"]


def test_mistakes_are_told(cell: Any) -> None:
    one = cell("resnet", "classification")
    assert one.post() == (400, "give exactly one of picture, image, features: there is none")
    features = {"features": [[1.0] * 128], "boxes": [[0, 0, 1, 1]]}
    assert one.post(**features) == (400, "model 'm' takes no features: it reads pictures")
    bomb = sent(Image.new("1", (20_000, 20_000)))
    code, error = one.post(image=bomb)
    assert code == 400
    assert "at most 25 million are accepted" in error or "damaged" in error

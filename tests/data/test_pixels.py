"""ViLT's picture rules: sizes and values of the official transform, without torchvision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlcompress.data.pixels import Resized, normalized, resized, target_size

ROWS = json.loads((Path(__file__).parents[1] / "fixtures" / "data" / "vilt" / "resize_384.json").read_text())["rows"]


def _grey(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    values = (np.arange(height)[:, None] + np.arange(width)) % 256
    return np.repeat(values[:, :, None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['width']}x{row['height']}")
def test_resize_is_the_official_transform(row: dict[str, Any]) -> None:
    image = normalized(resized(_grey(row["width"], row["height"]), shorter=384, multiple=32))
    assert list(image.shape) == [*row["out_hw"], 3]
    assert float(image.mean(dtype=np.float64)) == pytest.approx(row["mean"], abs=1e-6)
    assert float(image.std(dtype=np.float64)) == pytest.approx(row["std"], abs=1e-6)
    assert float(image[0, 0, 0]) == pytest.approx(row["corner"], abs=1e-6)
    assert float(image[-1, -1, -1]) == pytest.approx(row["last"], abs=1e-6)


def test_values_are_to_the_bit_those_of_to_tensor_and_normalize() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(normalized(every), ((every / np.float32(255)) - np.float32(0.5)) / np.float32(0.5))
    assert normalized(every).min() == -1
    assert normalized(every).max() == 1


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = _grey(128, 96)
    assert resized(image, shorter=96, multiple=16) is image


def test_a_sliver_keeps_one_patch() -> None:
    assert target_size(10, 1000, 384, 32) == (32, 608)


def test_resized_pictures_pass_the_rest_through() -> None:
    class Source:
        feature_dim = 4

        def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
            return image == "a"

        def has_pixels(self, image: str) -> bool:
            return image == "b"

        def regions(self, image: str, *, ground_truth: bool = False) -> Any:
            return (image, ground_truth)

        def pixels(self, image: str) -> Any:
            return _grey(60, 40)

    pictures = Resized(Source(), shorter=48, multiple=16)
    assert pictures.pixels("a").shape == (48, 64, 3)
    assert pictures.feature_dim == 4
    assert pictures.has_regions("a")
    assert not pictures.has_regions("b")
    assert pictures.has_pixels("b")
    assert not pictures.has_pixels("a")
    assert pictures.regions("b", ground_truth=True) == ("b", True)

"""Padding samples into batches, and random inputs of the same form, as all families do it.

Shapes: B batch, T words, R regions, N the longest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlcompress.data.regions import Regions


def padded(arrays: Sequence[NDArray[Any]]) -> Tensor:
    """Put arrays [n, ...] into one tensor [B, N, ...], with zeros after the shorter ones."""
    result = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(result, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(result)


def padding_mask(arrays: Sequence[NDArray[Any]]) -> Tensor:
    """Mark what `padded` did not add: int64 [B, N], 1 = there."""
    return padded([np.ones(len(array), np.int64) for array in arrays])


def regions_of(image: Regions | NDArray[np.uint8]) -> Regions:
    """Assert that an image is regions."""
    assert isinstance(image, Regions)
    return image


def random_mask(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw a mask int64 [batch, size]: every row but the first is padded by a random number."""
    lengths = torch.randint(1, size + 1, (batch,), generator=generator)
    lengths[0] = size
    return (torch.arange(size) < lengths[:, None]).long()


def random_text(words: int, batch: int, text: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw input_ids from 1 to `words` - 1 and attention_mask, int64 [batch, text], padded as by `random_mask`."""
    ids = torch.randint(1, words, (batch, text), generator=generator)
    mask = random_mask(batch, text, generator)
    return {"input_ids": ids * mask, "attention_mask": mask}


def random_regions(batch: int, regions: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw features float32 [batch, regions, width] at 0 or more, and boxes [batch, regions, 4], x1 <= x2, y1 <= y2."""
    features = torch.rand(batch, regions, width, generator=generator)
    return features, torch.rand(batch, regions, 2, 2, generator=generator).sort(dim=2).values.flatten(2)

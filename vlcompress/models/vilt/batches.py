"""ViLT's batches.

Shapes: B batch, T words.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlcompress.data.pixels import normalized
from vlcompress.models.base import Sample
from vlcompress.models.batches import padded, padding_mask


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Pad texts to the longest and pictures, at their lower and right edges, to the highest and widest.

    A sample of two images is two rows, one after the other.

    Returns:
        input_ids int64 [B, T], attention_mask int64 [B, T], pixel_values float32 [B, 3, height, width] in -1..1
        (0 where padded), pixel_mask bool [B, height, width].
    """
    ids = [sample.ids for sample in samples for _ in sample.images]
    pictures = _pictures([image for sample in samples for image in sample.images])
    return {"input_ids": padded(ids), "attention_mask": padding_mask(ids), **pictures}


def _pictures(images: Sequence[Any]) -> dict[str, Tensor]:
    sizes = [image.shape[:2] for image in images]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    pixels = torch.zeros(len(images), 3, height, width)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        pixels[row, :, : image.shape[0], : image.shape[1]] = torch.from_numpy(normalized(image)).permute(2, 0, 1)
        mask[row, : image.shape[0], : image.shape[1]] = True
    return {"pixel_values": pixels, "pixel_mask": mask}

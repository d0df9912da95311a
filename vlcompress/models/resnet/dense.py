"""Small heads that look at a ResNet's feature maps: boxes cell by cell, and a class for every pixel.

They stand for the detectors and segmenters of Chen et al. (CVPR 2021, section 4.3) where a training has to end in
seconds.

Shapes: B pictures of H x W pixels, C channels, h x w cells of the last stage, L labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

BOX = 5
"""Channels of a cell beside the labels': whether a thing's centre is there; centre x, y; logarithm of width, height."""
_MIDDLE = 32


class BoxHead(nn.Module):
    """Predict boxes and classes of every cell [B, h, w, BOX + L]."""

    def __init__(self, channels: Sequence[int], labels: int) -> None:
        super().__init__()
        self.middle = nn.Conv2d(channels[-1], channels[-1], 3, padding=1)
        self.last = nn.Conv2d(channels[-1], BOX + labels, 1)

    def forward(self, stages: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Read the last stage [B, C, h, w]."""
        cells: Tensor = self.last(torch.relu(self.middle(stages[-1])))
        return cells.permute(0, 2, 3, 1)


class PixelHead(nn.Module):
    """Score every pixel [B, L, H, W]."""

    def __init__(self, channels: Sequence[int], labels: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(count, _MIDDLE, 1) for count in channels)
        self.last = nn.Conv2d(_MIDDLE, labels, 3, padding=1)

    def forward(self, stages: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Read every stage, sum them at the first one's size, and enlarge what comes to `size` (H, W)."""
        finest = stages[0].shape[2:]
        read = [side(stage) for side, stage in zip(self.sides, stages, strict=True)]
        joined = torch.stack([interpolate(one, finest, mode="bilinear") for one in read]).sum(dim=0)
        return interpolate(self.last(torch.relu(joined)), list(size), mode="bilinear")


DENSE_HEADS: dict[str, type[BoxHead | PixelHead]] = {"boxes": BoxHead, "pixels": PixelHead}

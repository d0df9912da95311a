"""RefCOCO's overlap of boxes with its convention for pixels.

Shapes: the last axis of a box is (x, y, width, height) in pixels.
"""

import torch
from torch import Tensor

HIT = 0.5
"""A prediction is right when its IoU is above this, not at it."""


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute the intersection over union of boxes [..., 4], broadcast, in [0, 1].

    As lichengunc/refer and UNITER's ``computeIoU`` have it: the corners of the intersection are the pixels x and
    x + width - 1, both counted, while areas are width times height. Touching boxes have no intersection.
    """
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(_last_pixel(boxes), _last_pixel(others))
    overlaps = (low < high).all(dim=-1)
    intersection = torch.where(overlaps, (high - low + 1).prod(dim=-1), 0.0)
    return intersection / (boxes[..., 2:].prod(dim=-1) + others[..., 2:].prod(dim=-1) - intersection)


def _last_pixel(boxes: Tensor) -> Tensor:
    return boxes[..., :2] + boxes[..., 2:] - 1

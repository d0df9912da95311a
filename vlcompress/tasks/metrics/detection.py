"""Average precision of detected boxes, by class.

The area under precision against recall, precision made to fall (Pascal VOC from 2010 on; COCO reads it at 101 points).

Shapes: D detections, T true boxes; boxes are corners x1, y1, x2, y2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Boxes:
    """Boxes of one picture.

    Attributes:
        corners: float [D, 4].
        classes: int64 [D].
        scores: float [D]; of true boxes, not read.
    """

    corners: Tensor
    classes: Tensor
    scores: Tensor


def average_precision(found: Sequence[Boxes], true: Sequence[Boxes], label: int, least: float) -> float | None:
    """Compute the average precision of a class over all pictures, in 0..1; None where no picture has it.

    The most confident detections choose first; each takes the unclaimed true box that it overlaps most, if by `least`
    (intersection over union) or more, and is wrong otherwise.
    """
    total = sum(int((one.classes == label).sum()) for one in true)
    if not total:
        return None
    judged = [row for one, other in zip(found, true, strict=True) for row in _judged(one, other, label, least)]
    hits = torch.tensor([hit for _, hit in sorted(judged, key=lambda row: -row[0])], dtype=torch.float64)
    if not len(hits):
        return 0.0
    right = hits.cumsum(0)
    precision = right / torch.arange(1, len(hits) + 1)
    falling = precision.flip(0).cummax(0).values.flip(0)
    return float((falling * hits).sum() / total)


def _judged(found: Boxes, true: Boxes, label: int, least: float) -> list[tuple[float, bool]]:
    """List score and rightness of a picture's detections of a class."""
    chosen = (found.classes == label).nonzero()[:, 0]
    overlaps_DT = intersection_over_union(found.corners[chosen], true.corners[true.classes == label])
    rows = []
    for place in found.scores[chosen].argsort(descending=True, stable=True).tolist():
        best = int(overlaps_DT[place].argmax()) if overlaps_DT.shape[1] else -1
        hit = best >= 0 and float(overlaps_DT[place, best]) >= least
        if hit:
            overlaps_DT[:, best] = -1  # claimed
        rows.append((float(found.scores[chosen][place]), hit))
    return rows


def intersection_over_union(one_D4: Tensor, other_T4: Tensor) -> Tensor:
    """Compute the overlap of each two boxes, [D, T]."""
    low = torch.maximum(one_D4[:, None, :2], other_T4[None, :, :2])
    high = torch.minimum(one_D4[:, None, 2:], other_T4[None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=2)
    return both / (_area(one_D4)[:, None] + _area(other_T4)[None] - both).clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)

"""Detection on built-in scenes: in each cell whether a thing's centre is there, its box and its class.

The score is AP50, the mean over classes of average precision at an overlap of a half; each class is one of the numbers
that the mean is of. A small stand-in for the detectors of Chen et al. (CVPR 2021, section 4.3).

Shapes: B pictures, h x w cells, L labels, D detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from vlcompress.data.scenes.located import CLASSES, HEIGHT, WIDTH, Located
from vlcompress.models.base import Family, Head, Sample
from vlcompress.models.objective import Batch
from vlcompress.models.resnet.dense import BOX
from vlcompress.tasks.base import Scores, finite
from vlcompress.tasks.metrics.detection import Boxes, average_precision
from vlcompress.tasks.preprocessing import NO_TEXT

STRICTER = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The overlaps that AP is the mean over (COCO)."""

BOX_WEIGHT = 5.0
"""Of the box's loss, whose numbers are small: as in YOLO (Redmon et al., CVPR 2016)."""


def batch_of(family: Family, pictures: Sequence[Located], targets: dict[str, Tensor]) -> Batch:
    """Make a batch of whole pictures."""
    return Batch(family.collate([Sample(NO_TEXT, NO_TEXT, (one.image,)) for one in pictures]), targets)


def called(index: int) -> str:
    """Name a picture in a message."""
    return f"built-in picture {index}"


@dataclass(frozen=True)
class DetectionTask:
    """Pictures with boxes, to learn from and to be scored on."""

    pictures: Sequence[Located]
    family: Family

    metric = "AP50"
    head = Head("boxes", CLASSES)
    hidden = False

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch; targets: each thing's "picture", "class" int64 and "box" float32 [.., 4], of all pictures."""
        chosen = [self.pictures[index] for index in indices]
        rows = [torch.full((len(one.classes),), place) for place, one in enumerate(chosen)]
        targets = {
            "picture": torch.cat(rows),
            "class": torch.from_numpy(np.concatenate([one.classes for one in chosen])),
            "box": torch.from_numpy(np.concatenate([one.boxes for one in chosen])),
        }
        return batch_of(self.family, chosen, targets)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the weighted sum of the losses of presence (all cells), class and box (cells with a centre)."""
        cells = self.family.logits(model, batch.inputs)
        row, column, wanted_K4 = _placed(batch.targets["box"], cells.shape[1:3])
        own = cells[batch.targets["picture"], row, column]
        there = torch.zeros_like(cells[..., 0])
        there[batch.targets["picture"], row, column] = 1
        presence = binary_cross_entropy_with_logits(cells[..., 0], there, reduction="sum") / len(own)
        kinds = cross_entropy(own[:, BOX:], batch.targets["class"])
        return presence + kinds + BOX_WEIGHT * smooth_l1_loss(own[:, 1:BOX], wanted_K4)

    def evaluate(self, model: nn.Module, *, batch: int) -> Scores:
        """Compute the average precision of each class at an overlap of a half, and AP75 and AP as further figures."""
        found = [boxes for start in range(0, len(self), batch) for boxes in self._found(model, start, batch)]
        true = [_true(one) for one in self.pictures]
        at = {least: _precisions(found, true, least) for least in STRICTER}
        means = {least: sum(values) / len(values) for least, values in at.items()}
        figures = {"AP75": means[0.75], "AP": sum(means.values()) / len(means)}
        scores = torch.tensor(at[0.5], dtype=torch.float32)
        return Scores(scores, torch.tensor([len(one.scores) for one in found]), figures)

    def _found(self, model: nn.Module, start: int, count: int) -> list[Boxes]:
        indices = range(start, min(start + count, len(self)))
        inputs = self.batch(indices, torch.Generator()).to(next(model.parameters()).device).inputs
        cells = finite(self.family.logits(model, inputs).float().cpu(), indices, called)
        return [decoded(one) for one in cells]


def decoded(cells: Tensor) -> Boxes:
    """Decode the cells [h, w, BOX + L] of a picture: one box for each, in pixels, with its likeliest class."""
    flat = cells.reshape(-1, cells.shape[2])
    size = _cell_size(cells.shape[:2], cells.device)
    rows, columns = (part.reshape(-1) for part in torch.meshgrid(*map(torch.arange, cells.shape[:2]), indexing="ij"))
    middle = (torch.stack([columns, rows], dim=1) + 0.5 + flat[:, 1:3]) * size
    half = flat[:, 3:BOX].clamp(-4, 4).exp() * size / 2
    likely, classes = flat[:, BOX:].softmax(dim=1).max(dim=1)
    return Boxes(torch.cat([middle - half, middle + half], dim=1), classes, flat[:, 0].sigmoid() * likely)


def _placed(boxes_K4: Tensor, cells: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Find row and column of the cell of each box's centre, and the four numbers that stand for the box there."""
    size = _cell_size(cells, boxes_K4.device)
    middle, extent = (boxes_K4[:, :2] + boxes_K4[:, 2:]) / 2 / size, (boxes_K4[:, 2:] - boxes_K4[:, :2]) / size
    corner = middle.floor()
    wanted = torch.cat([middle - corner - 0.5, extent.log()], dim=1)
    return corner[:, 1].long(), corner[:, 0].long(), wanted


def _cell_size(cells: Sequence[int], device: torch.device) -> Tensor:
    """Compute width and height of a cell in pixels, float32 [2], made on the device: nothing is copied there."""
    return torch.stack([torch.full((), side, device=device) for side in (WIDTH / cells[1], HEIGHT / cells[0])])


def _true(picture: Located) -> Boxes:
    classes = torch.from_numpy(picture.classes)
    return Boxes(torch.from_numpy(picture.boxes), classes, torch.ones(len(classes)))


def _precisions(found: Sequence[Boxes], true: Sequence[Boxes], least: float) -> list[float]:
    every = (average_precision(found, true, label, least) for label in range(len(CLASSES)))
    return [value for value in every if value is not None]

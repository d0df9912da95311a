"""Segmentation of built-in scenes: a class for every pixel, background among them.

The score is mIoU, the mean over classes of intersection over union; each class is one of the numbers that the mean is
of. A small stand-in for DeepLab in Chen et al. (CVPR 2021, section 4.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.data.scenes.located import CLASSES, Located
from vlcompress.models.base import Family, Head
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Scores, finite
from vlcompress.tasks.detection import batch_of, called
from vlcompress.tasks.metrics.segmentation import class_overlaps, confusion


@dataclass(frozen=True)
class SegmentationTask:
    """Pictures with a label for each pixel, to learn from and to be scored on."""

    pictures: Sequence[Located]
    family: Family

    metric = "mIoU"
    head = Head("pixels", (*CLASSES, "background"))
    hidden = False

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch; targets: "pixels" int64 [B, H, W]."""
        chosen = [self.pictures[index] for index in indices]
        return batch_of(self.family, chosen, {"pixels": torch.from_numpy(np.stack([one.pixels for one in chosen]))})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the mean cross entropy over pixels."""
        return cross_entropy(self.family.logits(model, batch.inputs), batch.targets["pixels"])

    def evaluate(self, model: nn.Module, *, batch: int) -> Scores:
        """Compute each class's intersection over union, and the share of right pixels as a further figure."""
        labels = len(self.head.labels)
        counts = torch.zeros(labels, labels, dtype=torch.int64)
        for start in range(0, len(self), batch):
            indices = range(start, min(start + batch, len(self)))
            examples = self.batch(indices, torch.Generator()).to(next(model.parameters()).device)
            logits = finite(self.family.logits(model, examples.inputs), indices, called)
            predicted = logits.argmax(dim=1)
            counts += confusion(predicted, examples.targets["pixels"], labels).cpu()
        right = float(counts.diagonal().sum() / counts.sum())
        return Scores(class_overlaps(counts).float(), counts.argmax(dim=1), {"pixel accuracy": right})

"""Intersection over union of labelled pixels, by class, counted over all pictures together (Pascal VOC)."""

import torch
from torch import Tensor


def confusion(predicted: Tensor, true: Tensor, classes: int) -> Tensor:
    """Count pixels by true class (rows) and predicted class (columns), int64 [classes, classes].

    Args:
        predicted, true: int64 of the same shape, in 0..classes - 1.
        classes: how many there are.
    """
    pairs = true.reshape(-1) * classes + predicted.reshape(-1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_overlaps(counts: Tensor) -> Tensor:
    """Compute each class's intersection over union, float64, of the classes that have true pixels."""
    right = counts.diagonal().double()
    either = counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    there = counts.sum(dim=1) > 0
    return right[there] / either[there]

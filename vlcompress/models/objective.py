"""Batches and objectives: all that the training loop sees of a task or of a pre-training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: the model's keyword arguments, first axis batch (or a multiple of it).
        targets: what the loss and the score need, first axis batch.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to another device; copies to a GPU are queued, from page-locked memory."""
        return Batch(moved(self.inputs, device), moved(self.targets, device))


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy tensors to a device, to a GPU without waiting for it."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in tensors.items()}
    pinned = {name: value if value.is_cuda else value.pin_memory() for name, value in tensors.items()}
    return {name: value.to(device, non_blocking=True) for name, value in pinned.items()}


class Objective(Protocol):
    """Examples and a loss."""

    def __len__(self) -> int:
        """Count the examples."""

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch of the examples at `indices`; `rng` is the only source of chance (masking, negatives)."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the training loss of the batch, a scalar."""

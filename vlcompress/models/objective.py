"""Batches and objectives: all that the training loop sees of a task or of a pre-training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlcompress.errors import unknown
from vlcompress.models.marginal import Asked


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


class PretrainingObjective(Objective, Protocol):
    """An objective that a model which looks at nothing can be scored by."""

    def asked(self, targets: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Asked]:
        """Say what each part of `loss` asks of a model of this configuration in a batch's targets."""


@dataclass(frozen=True)
class PretrainingSpec:
    """How a family is pre-trained.

    Attributes:
        objective: made of examples, vocabulary and the settings by name.
        settings: what can be set, at the values that the built-in weights are made with.
        optimizer: see `vlcompress.training.loop.Hyperparameters`.
        reads: what it reads of the data in a way of its own: data read otherwise is other data.
    """

    objective: Callable[..., PretrainingObjective]
    settings: Mapping[str, float]
    optimizer: str
    reads: Mapping[str, str] = field(default_factory=dict)

    def settings_with(self, given: Mapping[str, float | None]) -> dict[str, float]:
        """Put the settings that are given (not None) over its own.

        Raises:
            VlcompressError: a setting that this pre-training does not have.
        """
        changed = {name: value for name, value in given.items() if value is not None}
        for name in changed:
            if name not in self.settings:
                raise unknown("setting of this family's pre-training", name, self.settings)
        return {**self.settings, **changed}

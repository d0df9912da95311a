"""What a task must tell: how to read its data, what it trains on, how the benchmark scores it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: the model's keyword arguments, first axis batch.
        targets: what the loss and the score need, first axis batch.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """Give the same batch on another device."""
        return Batch(
            {name: value.to(device) for name, value in self.inputs.items()},
            {name: value.to(device) for name, value in self.targets.items()},
        )


class Objective(Protocol):
    """Examples and a loss: all that the training loop sees of a task."""

    def __len__(self) -> int:
        """Give the number of examples."""

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch of the examples at `indices`; `rng` is the only source of chance (masking, negatives)."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give the mean training loss of the batch, a scalar."""


class Scored(Objective, Protocol):
    """An objective whose predictions the benchmark's metric can score one example at a time."""

    metric: str

    def scores(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give each example's score in [0, 1] as float32 [batch], and the predicted label indices as int64 [batch]."""

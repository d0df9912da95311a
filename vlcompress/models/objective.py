"""Batches and objectives: all that the training loop sees of a task or of a pre-training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vlcompress.errors import unknown
from vlcompress.models.marginal import Asked


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: the model's keyword arguments, first axis batch (or a multiple of it).
        targets: what the loss and the score need, first axis batch (or a multiple of it); but `ASKED`, int64 [n, 2].
        views: how many times the examples follow one another in the rows of the inputs.
        whole: the batch that this one is a part of, on the CPU.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    views: int = 1
    whole: "Batch | None" = None

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to another device; copies to a GPU are queued, from page-locked memory."""
        return replace(self, inputs=moved(self.inputs, device), targets=moved(self.targets, device))

    def part(self, examples: range, of: int) -> "Batch":
        """Take some of its `of` examples: views, padded as the whole is."""
        inputs = {name: _rows(x, examples, of, self.views) for name, x in self.inputs.items()}
        targets = {name: _rows(x, examples, of, 1) for name, x in self.targets.items() if name != ASKED}
        if ASKED in self.targets:
            targets[ASKED] = _places_in(self.targets[ASKED], examples)
        return Batch(inputs, targets, self.views, self)


ASKED = "asked"
"""The target that holds places, row and column of what is to be predicted, and not rows of its own."""


def _rows(x: Tensor, examples: range, of: int, views: int) -> Tensor:
    each = len(x) // of // views
    seen = x.view(views, -1, *x.shape[1:])[:, examples.start * each : examples.stop * each]
    return seen.flatten(0, 1)


def _places_in(places_N2: Tensor, examples: range) -> Tensor:
    """Keep the places in these rows, counted from the first of them."""
    rows_N = places_N2[:, 0]
    kept = places_N2[(rows_N >= examples.start) & (rows_N < examples.stop)]
    return kept - torch.tensor([examples.start, 0])


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


@runtime_checkable
class Divisible(Objective, Protocol):
    """An objective whose batches can be learned in parts: the batch's loss is a weighted sum of its parts'.

    A loss that compares the examples of a batch with one another has no such weights.
    """

    def share(self, part: Batch) -> float:
        """Weigh the loss of a part (`Batch.part`) in that of its whole."""


def row_share(part: Batch) -> float:
    """Weigh the part of a mean over examples: its share of them; 1 for a whole batch."""
    return _share(part, lambda batch: len(next(iter(batch.inputs.values()))))


def asked_share(part: Batch) -> float:
    """Weigh the part of a mean over what is asked for (`ASKED`): its share of it; 1 for a whole batch."""
    return _share(part, lambda batch: len(batch.targets[ASKED]))


def _share(part: Batch, count: Callable[[Batch], int]) -> float:
    return 1.0 if part.whole is None else count(part) / max(1, count(part.whole))


def weighed(losses: Mapping[str, Tensor], batch: Batch, **shares: Tensor) -> Tensor:
    """Add up means, a scalar; of a part, as they count in its whole: by what is asked for of "words", else by rows.

    Args:
        losses: scalars by name.
        batch: that they are of.
        shares: of losses that are means over something else.
    """
    if batch.whole is not None:
        weights: dict[str, Tensor | float] = {
            **dict.fromkeys(losses, row_share(batch)),
            "words": asked_share(batch),
            **shares,
        }
        losses = {name: loss * weights[name] for name, loss in losses.items()}
    return torch.stack(list(losses.values())).sum()


class PretrainingObjective(Divisible, Protocol):
    """An objective that a model which looks at nothing can be scored by."""

    def asked(self, targets: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Asked]:
        """Say what each part of `loss` asks of a model of this configuration in a batch's targets."""


@dataclass(frozen=True)
class PretrainingSpec:
    """How a family is pre-trained.

    Attributes:
        objective: made of examples, vocabulary and the settings by name.
        settings: what can be set, with what it is if it is not.
        optimizer: see `vlcompress.training.hyperparameters.Hyperparameters`.
        reads: what it reads of the data in a way of its own: data read otherwise is other data.
        built_in: what the built-in weights set otherwise, of built-in data.
        background: classes of the head that come before the detector's.
    """

    objective: Callable[..., PretrainingObjective]
    settings: Mapping[str, Any]
    optimizer: str
    reads: Mapping[str, str] = field(default_factory=dict)
    built_in: Mapping[str, Any] = field(default_factory=dict)
    background: int = 0

    def settings_with(self, given: Mapping[str, Any], *, built_in: bool = False) -> dict[str, Any]:
        """Put the settings that are given (not None) over its own, or over those for the built-in data.

        Raises:
            VlcompressError: a setting that this pre-training does not have.
        """
        changed = {name: value for name, value in given.items() if value is not None}
        for name in changed:
            if name not in self.settings:
                raise unknown("setting of this family's pre-training", name, self.settings)
        return {**self.settings, **(self.built_in if built_in else {}), **changed}

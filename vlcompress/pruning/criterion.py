"""Criteria: what makes a weight worth keeping. A criterion scores each weight; low scores are pruned first."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from vlcompress.errors import unknown

Saliencies = Mapping[str, Tensor]
"""What a training, or some examples, summed up for each weight, in its shape (see `vlcompress.training.saliency` and
`vlcompress.training.calibration`)."""


class Criterion(Protocol):
    """Scores of weights."""

    additive: ClassVar[bool]
    """Whether a unit's score is the mean of its weights', which may be negative; else it is their root mean square."""

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        """Score weights, float32 in the shape of `weight`: all of `name`, or its flat piece from index `start` on.

        The same question gives the same scores, since a selection asks several times.
        """


@dataclass(frozen=True)
class Magnitude:
    """|w|: the papers' criterion (Frankle & Carbin 2019; Gan et al. 2022, Alg. 1)."""

    additive: ClassVar[bool] = False

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        return weight.detach().float().abs()


@dataclass(frozen=True)
class HighMagnitude:
    """1 / |w|: the largest weights go first. The control that must fail, if magnitude means anything."""

    additive: ClassVar[bool] = False

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        largest = torch.finfo(torch.float32).max
        return (1 / weight.detach().float().abs()).clamp(max=largest)  # a zero weight scores highest


@dataclass(frozen=True)
class Random:
    """Uniform at random, from a seed and the weight's name: the random-mask control."""

    additive: ClassVar[bool] = False
    seed: int

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}:{name}:{start}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        return 1 - torch.rand(weight.shape, generator=rng)


@dataclass(frozen=True)
class _Summed:
    sums: Saliencies

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        return self.sums[name].reshape(-1)[start : start + weight.numel()].view(weight.shape).float()


class Gradient(_Summed):
    """Sum of |w dL/dw| over the end of the training (Molchanov et al., CVPR 2019; LeCun et al., 1990)."""

    additive: ClassVar[bool] = False


class Movement(_Summed):
    """Sum of -w dL/dw over the training (Sanh et al., NeurIPS 2020): what training moves towards zero goes first.

    A block's score is the mean of its weights', which is the gradient of one factor on the whole block (Lagunas et al.,
    EMNLP 2021).
    """

    additive: ClassVar[bool] = True


class Wanda(_Summed):
    """|w| times the norm of what it is multiplied by (Sun et al., ICLR 2024; see `vlcompress.training.calibration`).

    The paper compares weights within a row of their layer; here the allocation says which compete.
    """

    additive: ClassVar[bool] = False


class Fisher(_Summed):
    """w² times the mean square of what a logit changes with it: how far logits move, to second order, when w goes.

    A diagonal of the Gauss-Newton matrix (see `vlcompress.training.calibration`); what units lose adds up.
    """

    additive: ClassVar[bool] = True


@dataclass(frozen=True)
class Ranking:
    """A criterion by name, as a recipe has it, before there is a training to rank the weights of."""

    name: str

    @property
    def saliency(self) -> Literal["gradient", "movement"] | None:
        """Which sums a training must keep up for it; None where it needs none."""
        return self.name if self.name in ("gradient", "movement") else None  # type: ignore[return-value]

    def __str__(self) -> str:
        return self.name

    @property
    def calibrated(self) -> bool:
        """Whether it ranks by what some examples show of the trained model (`vlcompress.training.calibration`)."""
        return self.name in ("wanda", "fisher")

    def of(self, seed: int, sums: Saliencies | None = None) -> Criterion:
        """Make the criterion: "random" draws from `seed`; those of a training or of examples rank by their `sums`."""
        return _MADE[self.name](seed, sums or {})


_MADE: Mapping[str, Callable[[int, Saliencies], Criterion]] = {
    "magnitude": lambda seed, sums: Magnitude(),
    "high-magnitude": lambda seed, sums: HighMagnitude(),
    "random": lambda seed, sums: Random(seed),
    "gradient": lambda seed, sums: Gradient(sums),
    "movement": lambda seed, sums: Movement(sums),
    "wanda": lambda seed, sums: Wanda(sums),
    "fisher": lambda seed, sums: Fisher(sums),
}


def parse_criterion(text: str) -> Ranking:
    """Read ``magnitude``, ``high-magnitude``, ``random``, ``gradient``, ``movement``, ``wanda`` or ``fisher``.

    Raises:
        VlcompressError: no such criterion.
    """
    if text not in _MADE:
        raise unknown("criterion", text, _MADE)
    return Ranking(text)

"""Criteria: what makes a weight worth keeping. A criterion scores each weight; low scores are pruned first."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vlcompress.errors import unknown


class Criterion(Protocol):
    """Scores of weights."""

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        """Give float32 scores >= 0 in the shape of `weight`: all of `name`, or its flat piece from index `start` on.

        The same question gives the same scores, since a selection asks several times.
        """


@dataclass(frozen=True)
class Magnitude:
    """|w|: the papers' criterion (Frankle & Carbin 2019; Gan et al. 2022, Alg. 1)."""

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        """Give |weight|."""
        return weight.detach().float().abs()


@dataclass(frozen=True)
class HighMagnitude:
    """1 / |w|: the largest weights go first. The control that must fail, if magnitude means anything."""

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        """Give 1 / |weight|; a zero weight scores highest."""
        largest = torch.finfo(torch.float32).max
        return (1 / weight.detach().float().abs()).clamp(max=largest)


@dataclass(frozen=True)
class Random:
    """Uniform chance from a seed and the weight's name: the random-mask control."""

    seed: int

    def scores(self, name: str, weight: Tensor, start: int = 0) -> Tensor:
        """Give numbers uniform in (0, 1]."""
        digest = hashlib.sha256(f"{self.seed}:{name}:{start}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        return 1 - torch.rand(weight.shape, generator=rng)


def parse_criterion(text: str, seed: int) -> Criterion:
    """Read ``magnitude``, ``high-magnitude`` or ``random`` (which draws from `seed`)."""
    if text == "magnitude":
        return Magnitude()
    if text == "high-magnitude":
        return HighMagnitude()
    if text == "random":
        return Random(seed)
    raise unknown("criterion", text, ("magnitude", "high-magnitude", "random"))

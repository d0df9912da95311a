"""Schedules: how sparsity grows from round to round."""

import math
from dataclasses import dataclass
from typing import Protocol

from vlcompress.errors import VlcompressError

_DIGITS = 12
"""Levels are rounded to this many decimals: 0.1 * 7 is 0.7, and a recipe's hash must not depend on float dust."""


class Schedule(Protocol):
    """Sparsity after each round."""

    def level(self, round_: int) -> float:
        """Fraction pruned after round `round_` (from 1), were there no target."""

    def rounds_to(self, sparsity: float) -> int:
        """Count the rounds that it takes to reach `sparsity`: 0 if nothing is to be pruned."""


@dataclass(frozen=True)
class Linear:
    """`step` of the ORIGINAL weights each round: 10, 20, 30 % ... (Gan et al. 2022, read with BERT-Tickets' code)."""

    step: float

    def __str__(self) -> str:
        return f"linear:{100 * self.step:.12g}"

    def level(self, round_: int) -> float:
        return round(round_ * self.step, _DIGITS)

    def rounds_to(self, sparsity: float) -> int:
        return math.ceil(round(sparsity / self.step, _DIGITS))


@dataclass(frozen=True)
class Geometric:
    """`fraction` of the REMAINING weights each round: 1 - (1 - fraction)^round (Frankle & Carbin 2019)."""

    fraction: float

    def __str__(self) -> str:
        return f"geometric:{self.fraction:.12g}"

    def level(self, round_: int) -> float:
        return round(1 - (1 - self.fraction) ** round_, _DIGITS)

    def rounds_to(self, sparsity: float) -> int:
        return math.ceil(round(math.log1p(-sparsity) / math.log1p(-self.fraction), _DIGITS))


@dataclass(frozen=True)
class Steps:
    """The levels one by one, rising, as fractions; a target above the last of them takes one more round.

    Without levels, everything goes in one round.
    """

    fractions: tuple[float, ...] = ()

    def __str__(self) -> str:
        points = ",".join(f"{100 * fraction:.12g}" for fraction in self.fractions)
        return f"levels:{points}" if points else "oneshot"

    def level(self, round_: int) -> float:
        return self.fractions[round_ - 1] if round_ <= len(self.fractions) else 1.0  # then the target decides

    def rounds_to(self, sparsity: float) -> int:
        return int(sparsity > 0) + sum(fraction < sparsity for fraction in self.fractions)


def parse_schedule(text: str) -> Schedule:
    """Read a schedule.

    Args:
        text: ``linear:P`` (P points of the original weights, 0 < P <= 100), ``geometric:F`` (0 < F < 1), ``oneshot``,
            or ``levels:P,P,...`` (points of the original weights pruned after each round, rising, 0 < P < 100).

    Raises:
        VlcompressError: anything else.
    """
    kind, _, value = text.partition(":")
    try:
        if text == "oneshot":
            return Steps()
        if kind == "levels":
            return _steps(value)
        if kind == "linear" and 0 < float(value) <= 100:
            return Linear(round(float(value) / 100, _DIGITS))
        if kind == "geometric" and 0 < float(value) < 1:
            return Geometric(float(value))
    except ValueError:
        pass
    raise VlcompressError(
        f"unknown schedule '{text}': allowed are 'linear:P' (P points a round, 0 < P <= 100), "
        "'geometric:F' (fraction of the remaining, 0 < F < 1), 'oneshot' and 'levels:P,P,...' (points, rising)"
    )


def _steps(text: str) -> Steps:
    """Read rising points between 0 and 100; ValueError for anything else."""
    points = [float(part) for part in text.split(",")]
    if points != sorted(set(points)) or not 0 < points[0] <= points[-1] < 100:
        raise ValueError(text)
    return Steps(tuple(round(point / 100, _DIGITS) for point in points))


def levels(schedule: Schedule, sparsity: float, rounds: int | None = None) -> tuple[float, ...]:
    """List the sparsity after each round, ending exactly at `sparsity`, or after `rounds` rounds of the schedule.

    Args:
        schedule: how it grows.
        sparsity: the target, in [0, 1).
        rounds: stop after this many rounds, wherever the schedule is then; None goes to the target.

    Raises:
        VlcompressError: sparsity outside [0, 1), rounds below 1, or rounds that would pass the target.
    """
    if not 0 <= sparsity < 1:
        raise VlcompressError(f"sparsity {sparsity:g} is outside [0, 1): give the fraction to prune, for example 0.7")
    needed = schedule.rounds_to(sparsity)
    if rounds is not None and not 1 <= rounds <= needed:
        raise VlcompressError(
            f"rounds {rounds} does not fit: schedule '{schedule}' reaches sparsity {sparsity:g} in {needed} round(s); "
            f"give 1 to {needed}, or raise --sparsity"
        )
    return tuple(min(schedule.level(number), sparsity) for number in range(1, (rounds or needed) + 1))

"""Statistics of latencies: percentiles, and ratios with an interval that says whether they mean anything."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap resamples: enough for the second digit of a 95 % interval."""


@dataclass(frozen=True)
class Latency:
    """Latency of one variant at one batch size, in milliseconds a call.

    Attributes:
        p50_ms: median over all calls.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile; with fewer than 100 calls it is close to the slowest one.
        spread_ms: interquartile range of all calls.
        calls: calls measured, warm-up aside.
        examples_per_s: batch size over the median.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    spread_ms: float
    calls: int
    examples_per_s: float


@dataclass(frozen=True)
class Ratio:
    """How many times faster one variant is than another, with a 95 % bootstrap interval over rounds."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 1: otherwise the two are equally fast as far as one can tell."""
        return not self.low <= 1.0 <= self.high


def latency(rounds: Sequence[Sequence[float]], batch: int) -> Latency:
    """Summarise calls.

    Args:
        rounds: seconds of each call, by round.
        batch: examples in a call.
    """
    ms = np.concatenate([np.asarray(burst, dtype=np.float64) for burst in rounds]) * 1e3
    p25, p50, p75, p90, p99 = (round(float(value), 4) for value in np.percentile(ms, [25, 50, 75, 90, 99]))
    return Latency(p50, p90, p99, round(p75 - p25, 4), len(ms), round(batch * 1e3 / p50, 2))


def paired_ratio(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]], *, seed: int = 0) -> Ratio:
    """Compare two variants that were measured in the same rounds.

    The ratio of a round is that of its medians, the value is the median of those ratios, and the interval comes from
    resampling rounds: whatever slows the machine for a while slows both variants of that round, and cancels.

    Args:
        slow: seconds by round of the reference.
        fast: seconds by round of the variant.
        seed: of the bootstrap.
    """
    ratios = np.asarray([np.median(a) / np.median(b) for a, b in zip(slow, fast, strict=True)])
    picks = np.random.default_rng(seed).integers(0, len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(*(round(float(value), 4) for value in (np.median(ratios), low, high)))

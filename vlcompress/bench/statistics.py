"""Statistics of latencies: percentiles, and ratios with an interval that says whether they mean anything."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlcompress.results import Latency, Ratio

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap resamples: enough for the second digit of a 95 % interval."""


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

"""Percentiles and ratios of known numbers."""

import numpy as np
import pytest

from vlcompress.bench.statistics import latency, paired_ratio


def test_latency_of_known_calls() -> None:
    rounds = [[i / 1000 for i in range(1, 51)], [i / 1000 for i in range(51, 102)]]  # 1 to 101 ms
    summary = latency(rounds, batch=8)
    assert (summary.p50_ms, summary.p90_ms, summary.p99_ms) == (51.0, 91.0, 100.0)
    assert summary.spread_ms == 50.0
    assert summary.calls == 101
    assert summary.examples_per_s == pytest.approx(8 / 0.051, rel=1e-4)


def test_a_slow_phase_of_the_machine_cancels() -> None:
    noise = np.random.default_rng(0).uniform(1.0, 5.0, size=20)  # each round is slowed by its own factor
    slow = [[0.020 * factor] * 3 for factor in noise]
    fast = [[0.010 * factor] * 3 for factor in noise]
    ratio = paired_ratio(slow, fast)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


def test_equal_variants_are_not_called_different() -> None:
    random = np.random.default_rng(1)
    first, second = (random.normal(0.01, 0.001, size=(15, 5)).tolist() for _ in range(2))
    ratio = paired_ratio(first, second)
    assert ratio.low < 1.0 < ratio.high

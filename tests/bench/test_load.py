"""The load generator against servers of known behaviour."""

import asyncio
import time

import numpy as np
import pytest

from vlcompress.bench.load import Sample, arrivals, offer, saturate, summarise


def test_arrivals_are_a_poisson_process_that_a_seed_repeats() -> None:
    times = arrivals(200.0, 50.0, seed=1)
    gaps = np.diff(times)
    assert np.array_equal(times, arrivals(200.0, 50.0, seed=1))
    assert not np.array_equal(times[:50], arrivals(200.0, 50.0, seed=2)[:50])
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert times[0] >= 0
    assert times[-1] < 50
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential gaps: mean and deviation are equal


def test_latency_counts_from_the_time_a_request_was_due() -> None:
    """A server that answers one at a time, 20 ms each: the fifth of five at once has waited 100 ms."""
    lock = asyncio.Lock()

    async def send(index: int) -> str:
        async with lock:
            await asyncio.sleep(0.02)
        return "200"

    samples = asyncio.run(offer(send, np.zeros(5)))
    assert [sample.latency_s for sample in samples] == pytest.approx([0.02 * (i + 1) for i in range(5)], abs=0.05)


def test_a_stalled_server_does_not_stop_the_load() -> None:
    sent: list[float] = []

    async def send(index: int) -> str:
        sent.append(time.perf_counter())
        await asyncio.sleep(0.3)
        return "200"

    due = np.linspace(0, 0.1, 11)
    samples = asyncio.run(offer(send, due))
    assert sent[-1] - sent[0] == pytest.approx(0.1, abs=0.1)
    assert max(sample.late_s for sample in samples) < 0.2


def test_a_client_that_is_late_itself_is_told() -> None:
    async def send(index: int) -> str:
        time.sleep(0.01)  # the client's own work, which the clock must see
        return "200"

    load = summarise([asyncio.run(offer(send, np.zeros(10)))], 0.1)
    assert load.late_p99_ms > 30
    assert load.p99_ms is not None
    assert load.p99_ms >= load.late_p99_ms


def test_summary_tells_accepted_from_refused() -> None:
    one = [Sample(0.0, 0.0, 0.010, "200"), Sample(0.5, 0.0, 0.030, "200"), Sample(0.6, 0.0, 0.001, "503")]
    two = [Sample(0.9, 0.0, 0.600, "200")]
    load = summarise([one, two], 1.0)
    assert load.outcomes == {"200": 3, "503": 1}
    assert (load.offered_per_s, load.p50_ms, load.refused_p99_ms) == (2.0, 30.0, 1.0)
    assert load.seconds == pytest.approx(2.5)  # the second round ended half a second late
    assert load.good_per_s == pytest.approx(3 / 2.5)


def test_summary_of_nothing_but_refusals() -> None:
    load = summarise([[Sample(0.0, 0.0, 0.001, "503")]], 1.0)
    assert (load.good_per_s, load.p50_ms, load.p99_ms) == (0.0, None, None)


def test_capacity_of_a_closed_loop_counts_every_answer() -> None:
    answered: list[int] = []

    async def send(index: int) -> str:
        await asyncio.sleep(0.01)
        answered.append(index)
        return "200" if index % 2 else "503"

    start = time.perf_counter()
    capacity = asyncio.run(saturate(send, 4, 0.3))
    took = time.perf_counter() - start
    good = sum(index % 2 for index in answered)
    assert capacity == pytest.approx(good / took, rel=0.1)

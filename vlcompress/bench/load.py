"""Open-loop load: requests leave at the times of a Poisson process, whatever the server does.

A closed loop waits for an answer before it asks again, so a slow server is asked less and looks better than it is.
Here latency counts from the time at which a request was due, so a late client or a queue in the client counts too.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlcompress.results import Load

Floats = npt.NDArray[np.float64]
Send = Callable[[int], Awaitable[str]]
"""Sends the i-th request and gives its outcome: the HTTP status ("200", "503") or what went wrong ("timeout")."""

OK = "200"


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
        due_s: when it was due, from the start of the load.
        late_s: how much later the client sent it.
        latency_s: from the time it was due to its outcome.
        outcome: see `Send`.
    """

    due_s: float
    late_s: float
    latency_s: float
    outcome: str


def arrivals(rate: float, seconds: float, seed: int) -> Floats:
    """Draw the times of a Poisson process.

    Args:
        rate: mean requests a second.
        seconds: length of the load.
        seed: the same seed gives the same times.

    Returns:
        Increasing times in [0, seconds), float64.
    """
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0 / rate, size=int(rate * seconds * 1.5) + 50)
    times = np.cumsum(gaps)
    return times[times < seconds]


async def offer(send: Send, due_s: Floats) -> list[Sample]:
    """Send one request at each time, without waiting for answers, and wait for the last outcome."""
    start = time.perf_counter()
    tasks = []
    for index, due in enumerate(due_s):
        if (ahead := start + due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(_one(send, index, start, float(due))))
        if index % 16 == 0:
            await asyncio.sleep(0)  # a burst of due requests must not keep the answers from being read
    return await asyncio.gather(*tasks)


async def saturate(send: Send, concurrency: int, seconds: float) -> float:
    """Ask as fast as answers come, `concurrency` at a time: the capacity, in answers of status 200 a second."""
    start, good = time.perf_counter(), 0

    async def ask(worker: int) -> None:
        nonlocal good
        index = worker
        while time.perf_counter() - start < seconds:
            outcome = await send(index)  # not inside "+=", which would read `good` before it waits
            good += outcome == OK
            index += concurrency

    await asyncio.gather(*(ask(worker) for worker in range(concurrency)))
    return good / (time.perf_counter() - start)


def summarise(rounds: Sequence[Sequence[Sample]], seconds: float) -> Load:
    """Summarise rounds of the same rate as if they were one load.

    Args:
        rounds: outcomes of each.
        seconds: length of one round, as given to `arrivals`.
    """
    samples = [sample for found in rounds for sample in found]
    took = sum(max([seconds, *(sample.due_s + sample.latency_s for sample in found)]) for found in rounds)
    good = _ms([sample.latency_s for sample in samples if sample.outcome == OK])
    refused = _ms([sample.latency_s for sample in samples if sample.outcome != OK])
    late = _ms([sample.late_s for sample in samples])
    return Load(
        offered_per_s=round(len(samples) / (seconds * len(rounds)), 2),
        good_per_s=round(len(good) / took, 2),
        p50_ms=_percentile(good, 50),
        p95_ms=_percentile(good, 95),
        p99_ms=_percentile(good, 99),
        refused_p99_ms=_percentile(refused, 99),
        late_p99_ms=_percentile(late, 99) or 0.0,
        outcomes=dict(sorted(Counter(sample.outcome for sample in samples).items())),
        seconds=round(took, 3),
    )


async def _one(send: Send, index: int, start: float, due: float) -> Sample:
    late = time.perf_counter() - start - due
    outcome = await send(index)
    return Sample(due, late, time.perf_counter() - start - due, outcome)


def _ms(seconds: Sequence[float]) -> Floats:
    return np.asarray(seconds, dtype=np.float64) * 1e3


def _percentile(values: Floats, percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 3) if len(values) else None

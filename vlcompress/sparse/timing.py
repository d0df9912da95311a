"""Timing of several callables side by side: the one primitive behind every speed that this project states.

Callables are measured in one process, in bursts, in an order that is shuffled in every round, so that a machine that
slows down slows all of them. Garbage collection is off while it measures.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

Call = Callable[[], object]
Bursts = dict[str, list[list[float]]]
"""For each callable, for each round, the seconds of each call."""


@dataclass(frozen=True)
class Timing:
    """Time of one callable, in microseconds.

    Attributes:
        us: median over rounds of each round's lower quartile (other processes only ever add time).
        spread_us: interquartile range of those per-round values.
        calls: number of calls measured, warm-up aside.
    """

    us: float
    spread_us: float
    calls: int


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: how often every callable gets its turn.
        burst_s: seconds of calls in a turn; a longer call is made once.
        warmup: calls before those that count, as many of them as fit into `burst_s`, but one at least (unless 0).
    """

    rounds: int = 5
    burst_s: float = 0.003
    warmup: int = 3


EFFORT = Effort()
"""What a layer is measured with, unless told otherwise."""


def interleave(calls: Mapping[str, Call], effort: Effort = EFFORT, *, seed: int = 0) -> Bursts:
    """Measure callables in shuffled alternation.

    Args:
        calls: what to measure, by name.
        effort: how long; every burst makes at least one call.
        seed: of the order within rounds.
    """
    order, shuffle = list(calls), random.Random(seed).shuffle
    bursts: Bursts = {name: [] for name in calls}
    with _no_gc():
        for _ in range(effort.rounds):
            shuffle(order)
            for name in order:
                bursts[name].append(_burst(calls[name], effort))
    return bursts


def timing(rounds: list[list[float]]) -> Timing:
    """Summarise one callable's rounds of seconds."""
    lows = [_lower_quartile(burst) * 1e6 for burst in rounds]
    spread = quantiles(lows, n=4)[2] - quantiles(lows, n=4)[0] if len(lows) > 1 else 0.0
    return Timing(round(median(lows), 2), round(spread, 2), sum(len(burst) for burst in rounds))


def compare(calls: Mapping[str, Call], effort: Effort = EFFORT) -> dict[str, Timing]:
    """Measure callables in alternation and summarise each."""
    return {name: timing(rounds) for name, rounds in interleave(calls, effort).items()}


def _burst(call: Call, effort: Effort) -> list[float]:
    _warm_up(call, effort)
    times: list[float] = []
    end = time.perf_counter() + effort.burst_s
    while True:
        start = time.perf_counter()
        call()
        stop = time.perf_counter()
        times.append(stop - start)
        if stop >= end:
            return times


def _warm_up(call: Call, effort: Effort) -> None:
    end = time.perf_counter() + effort.burst_s
    for _ in range(effort.warmup):
        call()
        if time.perf_counter() >= end:
            return


def _lower_quartile(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 4]


@contextmanager
def _no_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


CALLS_IN_A_GRAPH = 10
"""Calls of one callable in a CUDA graph: enough that its launch is a small part of the time."""


def compare_in_graphs(calls: Mapping[str, Call]) -> dict[str, Timing]:
    """Measure callables on a GPU as they will run: each in a CUDA graph, in turns, timed by the device's own clock."""
    from vlcompress.kernels.timing import ROUNDS, interleaved

    found = interleaved({name: [call] * CALLS_IN_A_GRAPH for name, call in calls.items()})
    return {
        name: Timing(round(one.median_us, 2), round(one.spread_us, 2), ROUNDS * CALLS_IN_A_GRAPH)
        for name, one in found.items()
    }

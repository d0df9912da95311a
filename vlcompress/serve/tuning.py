"""How many threads and how many sessions: measured at start, since it depends on the model and on the machine."""

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vlcompress.serve.engines.base import Engine
from vlcompress.serve.tensors import Arrays

SECONDS = 0.3
"""How long each choice is measured."""

WORTH = 1.05
"""More sessions must give so much more throughput than fewer ones: a lone request is faster with more threads."""


MOST_COPIES = 4
"""Most sessions with weights of their own that are tried; those of one thread share one copy, however many."""


@dataclass(frozen=True)
class Throughput:
    """Throughput of one choice, in rows a second."""

    threads: int
    sessions: int
    rows_per_s: float


@dataclass(frozen=True)
class Parallel:
    """Threads inside an execution, executions at the same time, and the measurements behind the choice."""

    threads: int
    sessions: int
    measured: tuple[Throughput, ...] = ()


Opened = Callable[[Parallel], tuple[Engine, Arrays]]
"""Opens the model for a choice, and gives a batch to run it on."""


def choose_parallel(
    threads: int | None, sessions: int | None, opened: Opened, copy_bytes: int = 0
) -> tuple[Parallel, tuple[Throughput, ...]]:
    """Fill in what was not asked for.

    Args:
        threads: as asked for; None for any.
        sessions: likewise. With one of them given, the other takes what the cores leave.
        opened: opens the model for a choice; one is open at a time.
        copy_bytes: of the weights; copies that take more than half of the memory are not tried.

    Returns:
        The choice, and what was measured for it: nothing where nothing was to be chosen.
    """
    cores = available_cores()
    if threads is not None or sessions is not None:
        threads = threads or max(1, cores // (sessions or 1))
        return Parallel(threads, sessions or max(1, cores // threads)), ()
    counts = [count for count in range(1, cores + 1) if cores % count == 0]
    fit = min(MOST_COPIES, available_memory() // 2 // copy_bytes if copy_bytes else MOST_COPIES)
    choices = [Parallel(cores // count, count) for count in counts if count <= max(1, fit) or count == cores]
    if len(choices) == 1:
        return choices[0], ()
    measured = tuple(_measure(choice, *opened(choice)) for choice in choices)
    best = measured[0]
    for other in measured[1:]:
        best = other if other.rows_per_s > best.rows_per_s * WORTH else best
    return Parallel(best.threads, best.sessions), measured


def available_cores() -> int:
    """Count the cores that this process may use: of its affinity, and of its container's quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas())]))


def available_memory(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the bytes that this process may use: of the machine, and of its container's limit (version 2, then 1)."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found.append(int((cgroups / name).read_text()))  # "max" is no number: no limit
    return min(found)


def _quotas(cgroups: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """Read the cores that the container's control group allows (version 2, then 1); none where it sets no limit."""
    found = []
    with suppress(OSError, ValueError):
        most, period = (cgroups / "cpu.max").read_text().split()
        found.append(int(most) / int(period))  # "max" is no number: no limit
    with suppress(OSError, ValueError):
        most, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        found.append(int(most) / int(period))
    return [quota for quota in found if quota > 0]


def seconds_of(call: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _measure(choice: Parallel, engine: Engine, feeds: Arrays) -> Throughput:
    """Run the model from as many threads as there are sessions, for SECONDS."""
    rows = len(next(iter(feeds.values())))
    engine.run(feeds)
    done = [0] * choice.sessions
    start = time.perf_counter()

    def work(index: int) -> None:
        while time.perf_counter() < start + SECONDS:
            engine.run(feeds)
            done[index] += rows

    workers = [threading.Thread(target=work, args=(index,)) for index in range(choice.sessions)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Throughput(choice.threads, choice.sessions, sum(done) / (time.perf_counter() - start))

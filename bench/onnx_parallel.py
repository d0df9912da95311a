"""One session with all threads, or one session a core: rows a second of each, for the graphs of bench.onnx_cpu.

    python -m bench.onnx_parallel --work FOLDER    # after `bench.onnx_cpu build`; some 2 minutes on 2 cores

The two take turns. `vlcompress serve` makes the same choice by measurement when it starts (vlcompress/serve/tuning.py);
this records what it is worth, by form and batch size.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.onnx_cpu import BATCHES, VARIANTS, bound, inputs_of
from bench.onnx_record import record
from bench.onnx_tables import parallel_table, read_scores
from vlcompress.bench.environment import environment
from vlcompress.bench.statistics import paired_ratio
from vlcompress.export.runtime import open_session
from vlcompress.serve.tuning import available_cores

SPARSITY = 70
ROUNDS = 7
SECONDS = {1: 0.5, 8: 1.5}
"""How long every choice runs in a round, by batch size."""

FORMS = ("dense", "heads and neurons", "heads and neurons, int8", "192x16", "768x16", "16x1, native kernel")

Json = dict[str, Any]
Call = Callable[[], object]


def seconds_of_a_call(calls: list[Call], seconds: float) -> float:
    """Run each call again and again in a thread of its own, once at least; give seconds over calls of all together."""
    done = [0] * len(calls)
    start = time.perf_counter()

    def work(index: int) -> None:
        while not done[index] or time.perf_counter() < start + seconds:
            calls[index]()
            done[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - start) / sum(done)


def measure(file: Path, options: Mapping[str, Any], batch: int, size: str) -> Json:
    """Compare both choices for one graph and batch size."""
    cores, inputs = available_cores(), inputs_of(batch, size)
    choices = {"one session": (cores, 1), "a session a core": (1, cores)}
    calls = {
        name: [bound(open_session(file, threads=threads, **options), inputs) for _ in range(sessions)]
        for name, (threads, sessions) in choices.items()
    }
    for opened in calls.values():
        for call in opened:
            call()
    found: dict[str, list[list[float]]] = {name: [] for name in calls}
    for number in range(ROUNDS):
        for name in sorted(calls, reverse=bool(number % 2)):
            found[name].append([seconds_of_a_call(calls[name], SECONDS[batch])])
    rows = {name: round(batch / sorted(times)[len(times) // 2][0], 2) for name, times in found.items()}
    ratio = asdict(paired_ratio(found["one session"], found["a session a core"]))
    return {"batch": batch, "rounds": ROUNDS, "rows_per_s": rows, "sessions_over_threads": ratio}


def measure_all(work: Path, size: str = "base") -> Json:
    """Compare both choices for every form that was built."""
    records = []
    started = environment()
    for form in FORMS:
        variant = VARIANTS[form]
        file = work / f"{variant.file.format(SPARSITY)}.onnx"
        for batch in BATCHES if file.is_file() else ():
            about = {"form": form, "pattern": variant.pattern, "precision": variant.precision, "sparsity": SPARSITY}
            records.append({**about, **measure(file, variant.options, batch, size)})
            print(form, batch, records[-1]["rows_per_s"], flush=True)
    return {"cores": available_cores(), "records": records, "environment": started}


def main() -> None:
    """Measure and write the table."""
    record(__doc__, "parallel", measure_all, lambda found: parallel_table(found, read_scores()))


if __name__ == "__main__":
    main()

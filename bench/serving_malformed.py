"""10,000 malformed requests on each protocol: what the server answers, what its memory does, and whether it lives on.

    python -m bench.serving_malformed RUN [--count 10000] [--seed 0] [--out bench/results/serving/malformed.json]

tests/serve/live/malformed.py draws the requests from the seed, malformed_grpc.py beside it the calls; they take turns,
a batch of each. After every 500 a valid request must be answered with the scores that ONNX Runtime gives for it. Memory
is the server's resident size; it is taken as a base after the first 1,000, when pools and caches are filled.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.records import write_record
from bench.serving import RunModel, ask_json, resident_mb
from tests.serve.live import malformed_grpc
from tests.serve.live.malformed import Outcome, attempts, send_all, wrong
from vlcompress.bench.served import served

BATCH = 500
SETTLED = 1000
"""Requests after which memory should have stopped growing."""


def measure(model: RunModel, count: int, seed: int) -> dict[str, Any]:
    """Send the requests in batches; check a valid one, and memory, after each."""
    http: list[Outcome] = []
    calls: list[Outcome] = []
    memory, start = {}, time.perf_counter()
    with served({"model": model.folder}, over_grpc=True) as server:
        drawn = attempts("model", model.document(0), count, seed)
        drawn_calls = malformed_grpc.calls("model", model.arrays(0), count, seed)
        while batch := list(itertools.islice(drawn, BATCH)):
            http += asyncio.run(send_all(server.url, batch))
            calls += asyncio.run(malformed_grpc.send_all(server.grpc, itertools.islice(drawn_calls, BATCH)))
            scores = ask_json(server.url, "model", model.document(1))
            np.testing.assert_allclose(scores, model.expected(1), rtol=1e-4, atol=1e-5)
            memory[len(http)] = round(resident_mb(server.pid), 1)
    base = memory.get(SETTLED, next(iter(memory.values())))
    return {
        "count": {"http": len(http), "grpc": len(calls)},
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "wrong": [vars(outcome) for outcome in (*wrong(http), *malformed_grpc.wrong(calls))],
        "valid_requests_answered_right": len(memory),
        "resident_mb": memory,
        "growth_mb": round(list(memory.values())[-1] - base, 1),
        "outcomes": {"http": _by_kind(http), "grpc": _by_kind(calls)},
    }


def _by_kind(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.kind][outcome.status] += 1
    return {kind: dict(sorted(found.items())) for kind, found in counts.items()}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure(RunModel(arguments.run), arguments.count, arguments.seed)
    write_record("python -m bench.serving_malformed", found, arguments.out)
    print(json.dumps(found["wrong"], indent=2))


if __name__ == "__main__":
    main()

"""The benchmark: correctness first, then latencies side by side, then memory and size, in one record.

A speed is reported only for variants whose scores were checked in this very process, on these very inputs.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from torch import Tensor

from vlcompress.bench.environment import environment
from vlcompress.bench.memory import peak_memory
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.bench.variants import Scores, Variant
from vlcompress.errors import VlcompressError
from vlcompress.export.parity import BOUNDS, Bound, compare_scores, require
from vlcompress.results import BatchResult, BenchResult, Speedup, VariantResult
from vlcompress.sparse.compile import thread_count
from vlcompress.sparse.timing import Bursts, Call, Effort, interleave

Inputs = Mapping[str, Tensor]

EFFORT = Effort(rounds=15, burst_s=0.15, warmup=2)
"""15 rounds of at least 0.15 s of calls for each variant: some 10 s a batch size for five variants."""


FEWEST = 2
"""Rounds, at least, of calls that take long."""

OPENINGS = 2
"""How often a file is opened, where the fastest opening counts."""


def measure_openings(
    variants: Mapping[str, Sequence[Callable[[], object]]], effort: Effort = EFFORT, seconds: float = math.inf
) -> Bursts:
    """Measure variants that are there several times, all calls in turn; the opening with the lowest median counts.

    Two sessions of one file run up to 1.4 times apart, by where their weights lie in memory.

    Args:
        variants: by name, the same call through each of its openings.
        effort: rounds, and seconds of calls in each.
        seconds: about how long it may take. Long calls are made once a turn and in fewer rounds, `FEWEST` at least,
            and through one opening alone where that is still too long.

    Returns:
        Seconds of every call of the fastest opening, by name and round.
    """
    variants, effort = within(seconds, variants, effort)
    each = {f"{name} #{at}": call for name, calls in variants.items() for at, call in enumerate(calls)}
    found = interleave(each, effort)
    openings = {name: [found[f"{name} #{at}"] for at in range(len(calls))] for name, calls in variants.items()}
    return {name: min(rounds, key=lambda one: latency(one, 1).p50_ms) for name, rounds in openings.items()}


def within(
    seconds: float, variants: Mapping[str, Sequence[Call]], effort: Effort
) -> tuple[Mapping[str, Sequence[Call]], Effort]:
    """Make every call once, which warms it up, and share out the seconds, as `measure_openings` says."""
    took = [_seconds_of(call) for calls in variants.values() for call in calls]
    if sum(max(one, effort.burst_s) for one in took) * (1 + bool(effort.warmup)) * effort.rounds <= seconds:
        return variants, effort
    if sum(took) * FEWEST > seconds:
        variants, took = {name: calls[:1] for name, calls in variants.items()}, took[:: len(took) // len(variants)]
    rounds = int(seconds / sum(max(one, effort.burst_s) for one in took))
    return variants, Effort(max(FEWEST, min(rounds, effort.rounds)), effort.burst_s, warmup=0)


def _seconds_of(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bench_models(
    variants: Sequence[Variant],
    inputs: Mapping[int, Inputs],
    *,
    threads: int,
    references: Sequence[str] = ("dense",),
    effort: Effort = EFFORT,
    bound: Bound = BOUNDS["fp32"],
) -> BenchResult:
    """Compare variants of a model.

    Args:
        variants: the rows; the references and every variant's truth must be among them.
        inputs: real samples by batch size.
        threads: threads of PyTorch while measuring (sessions carry their own).
        references: the variants that speeds are ratios to ("dense", and "onnx dense" for what the ticket itself gains).
        effort: how long to measure.
        bound: what a variant's scores may differ by from its truth's, unless it says so itself.

    Returns:
        What ``bench.json`` holds, without accuracy and curve.

    Raises:
        VerificationError: a variant's scores are not those of its truth; nothing is measured then.
        VlcompressError: a variant that is referred to is not there.
    """
    by_name = {variant.name: variant for variant in variants}
    for name in {*references, *(variant.truth for variant in variants)} - set(by_name):
        raise VlcompressError(f"the benchmark has no variant '{name}': give one of that name, or refer to another")
    with thread_count(threads):
        parities = _gate(by_name, inputs, bound)
        batches = {batch: _batch(by_name, samples, batch, references, effort) for batch, samples in inputs.items()}
        described = environment()
    rows = {
        name: VariantResult(
            truth=variant.truth,
            parity=parities[name],
            bytes=variant.nbytes,
            memory_mb=None if variant.make is None else peak_memory(variant.make),
            batches={str(batch): found[name] for batch, found in batches.items()},
        )
        for name, variant in by_name.items()
    }
    return BenchResult(described, threads, tuple(references), rows)


def _gate(variants: Mapping[str, Variant], inputs: Mapping[int, Inputs], bound: Bound) -> dict[str, dict[str, float]]:
    """Run every variant on all inputs and compare it with its truth."""
    scores = {name: _scores(variant, inputs) for name, variant in variants.items()}
    found: dict[str, dict[str, float]] = {}
    for name, variant in variants.items():
        parity = compare_scores(scores[variant.truth], scores[name])
        require(
            parity,
            f"'{name}' does not compute what '{variant.truth}' does, so no speed is reported",
            variant.bound or bound,
        )
        found[name] = asdict(parity)
    return found


def _scores(variant: Variant, inputs: Mapping[int, Inputs]) -> list[Scores]:
    return [np.array(variant.bind(samples)()) for samples in inputs.values()]


def _batch(
    variants: Mapping[str, Variant], inputs: Inputs, batch: int, references: Sequence[str], effort: Effort
) -> dict[str, BatchResult]:
    """Measure one batch size: for each variant its latency and its speed relative to the references."""
    bursts = interleave({name: variant.bind(inputs) for name, variant in variants.items()}, effort)
    return {
        name: BatchResult(
            **vars(latency(rounds, batch)), speedup={to: _speedup(bursts[to], rounds) for to in references}
        )
        for name, rounds in bursts.items()
    }


def _speedup(slow: list[list[float]], fast: list[list[float]]) -> Speedup:
    ratio = paired_ratio(slow, fast)
    return Speedup(**vars(ratio), significant=not ratio.low <= 1.0 <= ratio.high)

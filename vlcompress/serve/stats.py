"""Counts and times of one model, as the protocol's statistics extension reports them (nanoseconds)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vlcompress.serve.schemas import Duration, ModelStatistics


@dataclass
class _Sum:
    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.ns += int(seconds * 1e9) * count

    def json(self) -> Duration:
        return Duration(count=self.count, ns=self.ns)


@dataclass
class Stats:
    """What one version of a model has done since it was loaded; touched by the event loop alone."""

    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    _sums: dict[str, _Sum] = field(default_factory=dict)
    _batches: dict[int, dict[str, _Sum]] = field(default_factory=dict)

    @contextmanager
    def counted(self, start: float) -> Iterator[None]:
        """Count a request as answered when the block ends well, else as failed.

        Args:
            start: when it arrived, on `time.perf_counter`.
        """
        outcome = "fail"
        try:
            yield
            outcome = "success"
        finally:
            self._sum(outcome).add(time.perf_counter() - start)

    def executed(self, rows: int, waits: list[float], merge_s: float, run_s: float, split_s: float) -> None:
        """Count an execution.

        Args:
            rows: of the batch.
            waits: seconds that each of its requests had waited.
            merge_s, run_s, split_s: seconds spent on padding and stacking, in the model, and on taking apart.
        """
        self.inference_count += rows
        self.execution_count += 1
        self.last_inference_ms = int(time.time() * 1000)
        for wait in waits:
            self._sum("queue").add(wait)
        batch = self._batches.setdefault(rows, {})
        for name, seconds in (("compute_input", merge_s), ("compute_infer", run_s), ("compute_output", split_s)):
            self._sum(name).add(seconds, len(waits))
            batch.setdefault(name, _Sum()).add(seconds)

    def json(self, name: str, version: int) -> ModelStatistics:
        """Report them as the extension has them."""
        names = (
            "success",
            "fail",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
            "cache_hit",
            "cache_miss",
        )
        return ModelStatistics(
            name=name,
            version=str(version),
            last_inference=self.last_inference_ms,
            inference_count=self.inference_count,
            execution_count=self.execution_count,
            inference_stats={part: self._sum(part).json() for part in names},
            batch_stats=[
                {"batch_size": rows, **{part: found.json() for part, found in parts.items()}}
                for rows, parts in sorted(self._batches.items())
            ],
        )

    def _sum(self, name: str) -> _Sum:
        return self._sums.setdefault(name, _Sum())

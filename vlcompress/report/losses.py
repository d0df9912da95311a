"""The loss of each training of a run over its steps, from the trainings' logs: what the page draws."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

from vlcompress.report.plots import COLOURS, Chart, Point, Series
from vlcompress.results import RunResult
from vlcompress.tickets.run import Run
from vlcompress.tickets.store import LOG

WINDOWS = 40
"""Points of a curve: each is the mean loss of as many steps, so that the noise of single batches does not hide it."""


@dataclass(frozen=True)
class LossCurve:
    """A training's loss.

    Attributes:
        name: "dense", or the round.
        steps: the last of each window, from 1.
        losses: mean of each window.
    """

    name: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]


def loss_curves(run: Run, result: RunResult) -> tuple[LossCurve, ...] | None:
    """Read how the first seed's dense model and its ticket's last rounds were trained.

    Returns:
        at most as many as a chart holds; None where no log is found: trainings that were moved, or removed.
    """
    cells = [*result.arm("dense"), *result.arm("ticket")[1 - len(COLOURS) :]]
    logs = {_name(cell.round): run.home / "trainings" / cell.trainings[0] / LOG for cell in cells}
    found = (_curve(name, path) for name, path in logs.items() if path.is_file())
    return tuple(curve for curve in found if curve.steps) or None


def loss_chart(curves: tuple[LossCurve, ...]) -> Chart:
    """Lay out loss over steps: a series a training."""
    series = (Series(one.name, tuple(map(Point, one.steps, one.losses))) for one in curves)
    return Chart("Loss over steps", "optimizer step", "training loss", tuple(series), curves=True)


def _name(number: int) -> str:
    return f"ticket, round {number}" if number else "dense"


def _curve(name: str, path: Path) -> LossCurve:
    """Average a log by windows; steps whose loss was not finite are left out."""
    entries = [(step, loss) for step, loss in _entries(path) if loss is not None]
    bounds = [len(entries) * window // WINDOWS for window in range(WINDOWS + 1)]
    windows = [entries[start:end] for start, end in pairwise(bounds) if end > start]
    return LossCurve(
        name,
        tuple(window[-1][0] for window in windows),
        tuple(round(mean(loss for _, loss in window), 6) for window in windows),
    )


def _entries(path: Path) -> Iterator[tuple[int, float | None]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield entry["step"], entry["loss"]

"""Scores against sparsity for several arms: what most of the papers' tables and figures are made of."""

from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import Any

from vlcompress.pruning.pattern import parse_pattern
from vlcompress.recipe import Recipe
from vlcompress.report.svg import Chart, Point, Reference, Series
from vlcompress.studies.base import Json, Table
from vlcompress.tickets.imp import Row, control, judged, rounds
from vlcompress.tickets.verdict import RELAXED
from vlcompress.tickets.workbench import Trial, Workbench

LEVELS = ("strict", "matching", "relaxed")


def run_curve(bench: Workbench, controls: Sequence[str], levels: Sequence[float] = ()) -> Json:
    """Train the dense model, the ticket at every level of the schedule, and the controls at chosen levels.

    Args:
        bench: of a recipe whose schedule passes the levels.
        controls: "random", "shuffle", "reinit", "language".
        levels: sparsities at which controls are trained; () takes every level.

    Returns:
        metric, number of examples, and "cells": arm, sparsity, scores of each seed (fractions), verdict.
    """
    columns = [list(_column(bench, seed, controls, levels)) for seed in bench.recipe.pruning.seeds]
    return {
        "metric": bench.score_task.metric,
        "examples": len(bench.score_task),
        "seeds": list(bench.recipe.pruning.seeds),
        "prunable_weights": bench.prunable.weights,
        "cells": [cell.document() for cell in judged(columns)],
    }


def trainings_of(recipe: Recipe, levels: Sequence[float], controls: Sequence[str], controlled: int) -> int:
    """Count the trainings of `run_curve` where nothing is there yet."""
    return len(recipe.pruning.seeds) * (1 + len(levels) + len(controls) * controlled)


def _column(bench: Workbench, seed: int, controls: Sequence[str], levels: Sequence[float]) -> Iterator[Row]:
    dense = bench.train(Trial(seed), f"seed {seed} dense")
    yield "dense", 0, 0.0, dense
    tickets = list(rounds(bench, seed, dense, parse_pattern(bench.recipe.pruning.pattern), "ticket"))
    yield from tickets
    for name in controls:
        for ticket in tickets:
            if not levels or any(abs(ticket[2] - level) < 5e-3 for level in levels):
                yield control(bench, seed, name, ticket)


def percent(cell: Json) -> float:
    """Give a cell's mean score over seeds, in per cent."""
    return float(100 * mean(cell["scores"]))


def deviation(cell: Json) -> float | None:
    """Give the standard deviation over seeds, in per cent; None for a single seed."""
    scores = cell["scores"]
    return 100 * stdev(scores) if len(scores) > 1 else None


def arm(curve: Json, name: str) -> list[Json]:
    """Give the cells of an arm, by sparsity."""
    return sorted((cell for cell in curve["cells"] if cell["arm"] == name), key=lambda cell: cell["sparsity"])


def dense_of(curve: Json) -> Json:
    """Give the dense cell."""
    return arm(curve, "dense")[0]


def at(curve: Json, name: str, sparsity: float) -> Json | None:
    """Give an arm's cell at a sparsity (within half a point); None where there is none."""
    near = [cell for cell in arm(curve, name) if abs(cell["sparsity"] - sparsity) < 5e-3]
    return near[0] if near else None


def sparsest(curve: Json, level: str, name: str = "ticket") -> tuple[float, str] | None:
    """Give the highest sparsity whose verdict at a level is a pass (or within noise), and which it is."""
    passing = [
        (cell["sparsity"], cell["verdict"]["levels"][level]["outcome"])
        for cell in arm(curve, name)
        if cell["verdict"]["levels"][level]["outcome"] != "fail"
    ]
    return max(passing) if passing else None


def score_text(cell: Json | None) -> str:
    """Give "59.02 ± 0.12", or a dash."""
    if cell is None:
        return "–"
    spread = deviation(cell)
    return f"{percent(cell):.2f}" if spread is None else f"{percent(cell):.2f} ± {spread:.2f}"


def curve_table(title: str, curve: Json) -> Table:
    """Lay out every cell with its verdicts."""
    dense = percent(dense_of(curve))
    rows = tuple(_row(cell, dense) for cell in curve["cells"])
    header = ("arm", "sparsity %", "score", "of dense %", *LEVELS, "p (relaxed)")
    return Table(title, header, rows, text_columns=(0, 4, 5, 6))


def _row(cell: Json, dense: float) -> tuple[str, ...]:
    verdict = cell["verdict"]
    outcomes = [verdict["levels"][level]["outcome"] if verdict else "" for level in LEVELS]
    p = f"{verdict['levels']['relaxed']['p']:.3f}" if verdict else ""
    sparsity = f"{100 * cell['sparsity']:.1f}"
    return cell["arm"], sparsity, score_text(cell), f"{100 * percent(cell) / dense:.1f}", *outcomes, p


def curve_chart(title: str, curve: Json) -> Chart:
    """Draw every arm against sparsity, with dense and its 99 % as lines."""
    dense = percent(dense_of(curve))
    names = list(dict.fromkeys(cell["arm"] for cell in curve["cells"] if cell["arm"] != "dense"))
    return Chart(
        title=title,
        x_label="sparsity of the prunable weights, %",
        y_label=f"{curve['metric']}, %",
        series=tuple(_series(name, arm(curve, name)) for name in names),
        references=(Reference(f"dense {dense:.2f}", dense), Reference("99 % of dense", RELAXED * dense)),
    )


def _series(name: str, cells: Sequence[Json]) -> Series:
    return Series(name, tuple(_point(cell) for cell in cells), line=len(cells) > 1)


def _point(cell: dict[str, Any]) -> Point:
    spread, score = deviation(cell), percent(cell)
    bounds = (None, None) if spread is None else (score - spread, score + spread)
    return Point(100 * cell["sparsity"], score, *bounds)

"""Scores against sparsity for several arms: what most of the papers' tables and figures are made of."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from vlcompress.pruning.mask import Masks
from vlcompress.recipe import Recipe
from vlcompress.report.plots import Chart, Point, Reference, Series
from vlcompress.report.table import Table
from vlcompress.results import to_json
from vlcompress.studies.base import Json, StudyReport
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row, TrainedArm, control, judged, rounds
from vlcompress.tickets.spec import Start, Trial
from vlcompress.tickets.verdict import RELAXED, judge

LEVELS = ("strict", "matching", "relaxed")


def run_curve(bench: Experiment, controls: Sequence[str], levels: Sequence[float] = ()) -> Json:
    """Train the dense model, the ticket at every level of the schedule, and the controls at chosen levels.

    Args:
        bench: of a recipe whose schedule passes the levels.
        controls: "random", "shuffle", "reinit", "language".
        levels: sparsities at which controls are trained; () takes every level.

    Returns:
        metric, number of examples, and "cells": arm, sparsity, scores of each seed (fractions), verdict.
    """
    return curve_of(bench, curve_cells(bench, controls, levels))


def curve_cells(bench: Experiment, controls: Sequence[str] = (), levels: Sequence[float] = ()) -> list[TrainedArm]:
    """Do the trainings of `run_curve`, which see, and judge them."""
    return judged([list(_column(bench, seed, controls, levels)) for seed in bench.recipe.pruning.seeds])


def curve_of(bench: Experiment, cells: Sequence[TrainedArm]) -> Json:
    """Write judged cells as plain JSON, with what they were scored on."""
    return {
        "metric": bench.score_task.metric,
        "examples": len(bench.score_task),
        "seeds": list(bench.recipe.pruning.seeds),
        "prunable_weights": bench.prunable.weights,
        "cells": [to_json(cell.result()) for cell in cells],
    }


def paired(reference: TrainedArm, ours: TrainedArm) -> Json:
    """Compare two cells of the same seeds and examples, as plain JSON.

    Returns:
        "sparsity" of ours; "points", the difference of each seed (fractions, positive where ours is better); their mean
        "margin" with its paired bootstrap interval "low" to "high"; "p", the share of resamples in which ours is worse.
    """
    both = [[one.scores for one in cell.trained] for cell in (reference, ours)]
    level = judge(*([one.scores for one in scores] for scores in both))["strict"]
    points = [one.mean - other.mean for other, one in zip(*both, strict=True)]
    return {"sparsity": ours.sparsity, "points": points, **{name: vars(level)[name] for name in _PAIRED}}


_PAIRED = ("margin", "low", "high", "p")


def rounds_of(recipe: Recipe) -> int:
    """Count the rounds that a recipe's schedule takes to its sparsity."""
    return recipe.pruning.schedule.rounds_to(recipe.pruning.sparsity)


def trainings_of(recipe: Recipe, controls: Sequence[str], controlled: int) -> int:
    """Count the trainings of `run_curve` where nothing is there yet."""
    return len(recipe.pruning.seeds) * (1 + rounds_of(recipe) + len(controls) * controlled)


def _column(bench: Experiment, seed: int, controls: Sequence[str], levels: Sequence[float]) -> Iterator[Row]:
    rows = imp_rows(bench, seed)
    yield from rows
    yield from (control(bench, seed, name, row) for name in controls for row in rows[1:] if near(row.sparsity, levels))


def imp_rows(bench: Experiment, seed: int, levels: Sequence[float] = (), arm: str = "ticket") -> list[Row]:
    """Train the dense model and every round of the recipe's pruning; () keeps the rows of every level, dense first."""
    dense = dense_row(bench, seed)
    tickets = rounds(bench, seed, dense.result, bench.recipe.pruning.pattern, arm)
    return [dense, *(row for row in tickets if near(row.sparsity, levels))]


def dense_row(bench: Experiment, seed: int) -> Row:
    """Train the dense model."""
    return Row("dense", 0, 0.0, bench.train(Trial(seed), f"seed {seed} dense"))


def masked_row(bench: Experiment, seed: int, arm: str, masks: Masks, number: int = 1, start: Start = "theta0") -> Row:
    """Train with a mask from elsewhere; `number` is the round that it stands for."""
    label = f"seed {seed} {arm}, {bench.recipe.data.task} at {100 * masks.sparsity:.1f} %"
    return Row(arm, number, masks.sparsity, bench.train(Trial(seed, masks, start), label))


def masks_of(rows: Sequence[Row]) -> list[Masks]:
    """Load the masks of the tickets among some rows."""
    return [row.result.masks() for row in rows if row.arm != "dense"]


def near(sparsity: float, levels: Sequence[float]) -> bool:
    """Tell whether a sparsity is one of some levels, within half a point; () takes every sparsity."""
    return not levels or any(abs(sparsity - level) < 5e-3 for level in levels)


def percent(cell: Json) -> float:
    """Average a cell's scores over seeds, in per cent."""
    return float(100 * mean(cell["scores"]))


def deviation(cell: Json) -> float | None:
    """Take the standard deviation over seeds, in per cent; None for a single seed."""
    scores = cell["scores"]
    return 100 * stdev(scores) if len(scores) > 1 else None


def arm(curve: Json, name: str) -> list[Json]:
    """Pick the cells of an arm, by sparsity."""
    return sorted((cell for cell in curve["cells"] if cell["arm"] == name), key=lambda cell: cell["sparsity"])


def dense_of(curve: Json) -> Json:
    """Pick the dense cell."""
    return arm(curve, "dense")[0]


def at(curve: Json, name: str, sparsity: float) -> Json | None:
    """Find an arm's cell at a sparsity (within half a point); None where there is none."""
    return next((cell for cell in arm(curve, name) if near(cell["sparsity"], (sparsity,))), None)


def sparsest(curve: Json, level: str, name: str = "ticket") -> tuple[float, str] | None:
    """Find the highest sparsity whose verdict at a level is a pass (or within noise), and which it is."""
    outcomes = [(cell["sparsity"], cell["verdict"]["levels"][level]["outcome"]) for cell in arm(curve, name)]
    return max((one for one in outcomes if one[1] != "fail"), default=None)


def score_text(cell: Json | None) -> str:
    """Write "59.02 ± 0.12", or a dash."""
    if cell is None:
        return "–"
    spread = deviation(cell)
    return f"{percent(cell):.2f}" if spread is None else f"{percent(cell):.2f} ± {spread:.2f}"


def curves_report(
    curves: Mapping[str, Json],
    findings: Callable[[str, Json], Iterable[str]],
    *,
    tables: Iterable[Table] = (),
    published: tuple[str, ...] = (),
    summary: str = "",
) -> StudyReport:
    """Lay out curves by name: what `findings` says of each, some tables before theirs, and a chart each."""
    return StudyReport(
        findings=tuple(sentence for name, curve in curves.items() for sentence in findings(name, curve)),
        tables=(*tables, *(curve_table(name, curve) for name, curve in curves.items())),
        charts=tuple(curve_chart(f"{name}: score against sparsity", curve) for name, curve in curves.items()),
        published=published,
        summary=summary,
    )


def curve_table(title: str, curve: Json) -> Table:
    """Lay out every cell with its verdicts."""
    return verdict_table(title, "arm", [(cell["arm"], cell) for cell in curve["cells"]])


def verdict_table(title: str, what: str, cells: Sequence[tuple[str, Json]]) -> Table:
    """Lay out cells, a row each: seeds, mean and deviation, verdicts, and how sure they are.

    Args:
        title: of the table.
        what: title of the first column.
        cells: each with what stands in that column; dense cells have no verdict.
    """
    margin = "margin to 99 % (95 % interval)"
    header = (what, "sparsity %", "seeds", "score", "of dense %", *LEVELS, margin, "p (relaxed)")
    return Table(title, header, tuple((name, *_row(cell)) for name, cell in cells), text_columns=(0, 5, 6, 7))


def _row(cell: Json) -> tuple[str, ...]:
    verdict, start = cell["verdict"], (f"{100 * cell['sparsity']:.1f}", str(len(cell["scores"])), score_text(cell))
    if verdict is None:
        return (*start, "100.0", *("" for _ in LEVELS), "", "")
    relaxed = verdict["levels"]["relaxed"]
    outcomes = (verdict["levels"][level]["outcome"] for level in LEVELS)
    return (*start, f"{percent(cell) / verdict['dense']:.1f}", *outcomes, margin_text(relaxed), f"{relaxed['p']:.3f}")


def margin_text(level: Json) -> str:
    """Write a margin in points with its paired bootstrap interval, "-0.31 (-1.20 to +0.55)"."""
    margin, low, high = (100 * level[name] for name in ("margin", "low", "high"))
    return f"{margin:+.2f} ({low:+.2f} to {high:+.2f})"


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

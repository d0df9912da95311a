"""Scores against sparsity for several arms: what most of the papers' tables and figures are made of."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from vlcompress.pruning.mask import Masks
from vlcompress.recipe import Recipe
from vlcompress.report.accuracy import score_chart
from vlcompress.report.plots import Chart, Point, Series
from vlcompress.report.sentences import non_inferior
from vlcompress.report.table import Table
from vlcompress.results import LEVELS, ArmResult, Level
from vlcompress.studies.base import StudyReport
from vlcompress.tickets.engine import columns
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import POST_TRAINING, Row, TrainedArm, control, judged, rounds
from vlcompress.tickets.spec import Start, Trial
from vlcompress.tickets.verdict import corrected, judge


@dataclass(frozen=True)
class Curve:
    """Arms at their levels, each judged against dense.

    Attributes:
        metric, examples: what was scored.
        seeds: of every arm.
        prunable_weights: how many there are.
        cells: every arm at every level, dense first.
    """

    metric: str
    examples: int
    seeds: tuple[int, ...]
    prunable_weights: int
    cells: tuple[ArmResult, ...]

    @property
    def dense(self) -> ArmResult:
        """The dense model."""
        return self.arm("dense")[0]

    def arm(self, name: str) -> list[ArmResult]:
        """Pick the cells of an arm, by sparsity."""
        return sorted((cell for cell in self.cells if cell.arm == name), key=lambda cell: cell.sparsity)

    def at(self, name: str, sparsity: float) -> ArmResult | None:
        """Find an arm's cell at a sparsity (within half a point); None where there is none."""
        return next((cell for cell in self.arm(name) if near(cell.sparsity, (sparsity,))), None)

    def sparsest(self, level: str, name: str = "ticket") -> tuple[float, str] | None:
        """Find the highest sparsity whose verdict at a level is a pass (or within noise), and which it is."""
        return max(
            ((cell.sparsity, cell.outcome(level)) for cell in self.arm(name) if cell.passes(level)), default=None
        )

    @property
    def nothing_learned(self) -> str:
        """Why there is no verdict on any arm, as a sentence; "" where there is one."""
        return next((cell.nothing_learned for cell in self.cells if cell.nothing_learned), "")


@dataclass(frozen=True)
class Difference:
    """Two cells of the same seeds and examples.

    Attributes:
        sparsity: of ours.
        points: the difference of each seed (fractions, positive where ours is better).
        margin, low, high: their mean with its paired bootstrap interval.
        p: share of resamples in which ours is worse, as a verdict's.
    """

    sparsity: float
    points: tuple[float, ...]
    margin: float
    low: float
    high: float
    p: float


CurveOf = TypeVar("CurveOf", bound=Curve)


def run_curve(bench: Experiment, controls: Sequence[str], levels: Sequence[float] = ()) -> Curve:
    """Train the dense model, the ticket at every level of the schedule, and the controls at chosen levels.

    Args:
        bench: of a recipe whose schedule passes the levels.
        controls: of `vlcompress.recipe.CONTROLS`, "unstructured" apart.
        levels: sparsities at which controls are trained; () takes every level.
    """
    return curve_of(bench, curve_cells(bench, controls, levels))


def curve_cells(bench: Experiment, controls: Sequence[str] = (), levels: Sequence[float] = ()) -> list[TrainedArm]:
    """Do the trainings of `run_curve`, which see, and judge them."""
    seeds = [partial(_column, bench, seed, controls, levels) for seed in bench.recipe.pruning.seeds]
    return judged(columns(bench.engine, seeds), bench.blind)


def curve_of(bench: Experiment, cells: Sequence[TrainedArm]) -> Curve:
    """Keep judged cells with what they were scored on."""
    return Curve(
        metric=bench.score_task.metric,
        examples=len(bench.score_task),
        seeds=tuple(bench.recipe.pruning.seeds),
        prunable_weights=bench.prunable.weights,
        cells=tuple(cell.result() for cell in cells),
    )


def paired(reference: TrainedArm, ours: TrainedArm) -> Difference:
    """Compare two cells of the same seeds and examples."""
    both = [[one.scores for one in cell.trained] for cell in (reference, ours)]
    level = judge(*([one.scores for one in scores] for scores in both))["strict"]
    points = tuple(one.mean - other.mean for other, one in zip(*both, strict=True))
    return Difference(ours.sparsity, points, level.margin, level.low, level.high, level.p)


def rounds_of(recipe: Recipe) -> int:
    """Count the rounds that a recipe's schedule takes to its sparsity."""
    return recipe.pruning.schedule.rounds_to(recipe.pruning.sparsity)


def trainings_of(recipe: Recipe, controls: Sequence[str], controlled: int) -> int:
    """Count the trainings of `run_curve` where nothing is there yet."""
    return len(recipe.pruning.seeds) * (1 + rounds_of(recipe)) + controls_of(recipe, controls, controlled)


def controls_of(recipe: Recipe, controls: Sequence[str], controlled: int) -> int:
    """Count the trainings of controls at so many levels; of these, scores and masks alone are kept."""
    trained = [name for name in controls if name not in POST_TRAINING]
    return len(recipe.pruning.seeds) * len(trained) * controlled


def _column(bench: Experiment, seed: int, controls: Sequence[str], levels: Sequence[float]) -> Iterator[Row]:
    rows = imp_rows(bench, seed)
    yield from rows
    chosen = [row for row in rows[1:] if near(row.sparsity, levels)]
    jobs = [partial(control, bench, seed, name, row) for name in controls for row in chosen]
    yield from bench.engine.together(jobs)


def imp_rows(bench: Experiment, seed: int, levels: Sequence[float] = (), arm: str = "ticket") -> list[Row]:
    """Train the dense model and every round of the recipe's pruning; () keeps the rows of every level, dense first."""
    dense = dense_row(bench, seed)
    tickets = rounds(bench, seed, dense.result, bench.recipe.pruning.pattern, arm)
    return [dense, *(row for row in tickets if near(row.sparsity, levels))]


def dense_row(bench: Experiment, seed: int) -> Row:
    """Train the dense model."""
    return Row("dense", 0, 0.0, bench.train(Trial(seed), f"seed {seed} dense"))


def masked_row(
    bench: Experiment,
    seed: int,
    arm: str,
    masks: Masks,
    number: int = 1,
    start: Start = "theta0",
    scored: bool = True,
) -> Row:
    """Train with a mask from elsewhere.

    Args:
        bench, seed, arm, masks, start: what is trained, and what it is called.
        number: the round that it stands for.
        scored: whether its scores are all that is wanted (`vlcompress.tickets.spec.Trial`).
    """
    label = f"seed {seed} {arm}, {bench.recipe.data.task} at {100 * masks.sparsity:.1f} %"
    return Row(arm, number, masks.sparsity, bench.train(Trial(seed, masks, start, scored=scored), label))


def masks_of(rows: Sequence[Row]) -> list[Masks]:
    """Load the masks of the tickets among some rows."""
    return [row.result.masks() for row in rows if row.arm != "dense"]


def near(sparsity: float, levels: Sequence[float]) -> bool:
    """Tell whether a sparsity is one of some levels, within half a point; () takes every sparsity."""
    return not levels or any(abs(sparsity - level) < 5e-3 for level in levels)


def score_text(cell: ArmResult | None) -> str:
    """Write "59.02 ± 0.12", or a dash."""
    if cell is None:
        return "–"
    return f"{cell.percent:.2f}" if cell.deviation is None else f"{cell.percent:.2f} ± {cell.deviation:.2f}"


def curves_report(
    curves: Mapping[str, CurveOf],
    findings: Callable[[str, CurveOf], Iterable[str]],
    *,
    tables: Iterable[Table] = (),
    published: tuple[str, ...] = (),
    summary: str = "",
) -> StudyReport:
    """Lay out curves by name: what `findings` says of each that learned, some tables first, and a chart each."""

    def said(name: str, curve: CurveOf) -> Iterator[str]:
        if curve.nothing_learned:
            yield f"{name}: {curve.nothing_learned}."
            return
        yield from findings(name, curve)
        if surely := non_inferior(curve.cells):
            yield f"{name}: {surely}."

    return StudyReport(
        findings=tuple(sentence for name, curve in curves.items() for sentence in said(name, curve)),
        tables=(*tables, *(curve_table(name, curve) for name, curve in curves.items())),
        charts=tuple(curve_chart(f"{name}: score against sparsity", curve) for name, curve in curves.items()),
        published=published,
        summary=summary,
    )


def curve_table(title: str, curve: Curve) -> Table:
    """Lay out every cell with its verdicts."""
    return verdict_table(title, "arm", [(cell.arm, cell) for cell in curve.cells])


def verdict_table(title: str, what: str, cells: Sequence[tuple[str, ArmResult]]) -> Table:
    """Lay out cells, a row each: seeds, mean and deviation, verdicts, and how sure they are.

    Args:
        title: of the table.
        what: title of the first column.
        cells: each with what stands in that column; dense cells have no verdict. The last p is corrected for the
            number of verdicts in the table.
    """
    margin = "margin to 99 % (95 % interval)"
    header = (what, "sparsity %", "seeds", "score", "of dense %", *LEVELS, margin, "p (relaxed)", "p (Holm)")
    surely = corrected([cell.levels["relaxed"] if cell.levels else None for _, cell in cells])
    rows = tuple((name, *_row(cell, p)) for (name, cell), p in zip(cells, surely, strict=True))
    return Table(title, header, rows, text_columns=(0, 5, 6, 7))


def _row(cell: ArmResult, surely: float | None) -> tuple[str, ...]:
    start = (f"{100 * cell.sparsity:.1f}", str(len(cell.scores)), score_text(cell))
    if cell.verdict is None:
        return (*start, "100.0", *("" for _ in LEVELS), "", "", "")
    relaxed, of_dense = cell.verdict["relaxed"], cell.percent / cell.verdict.dense
    values = (f"{relaxed.p:.4f}", "" if surely is None else f"{surely:.4f}")
    return (*start, f"{of_dense:.1f}", *map(cell.outcome, LEVELS), margin_text(relaxed), *values)


def margin_text(level: Level | Difference) -> str:
    """Write a margin in points with its paired bootstrap interval, "-0.31 (-1.20 to +0.55)"."""
    return f"{100 * level.margin:+.2f} ({100 * level.low:+.2f} to {100 * level.high:+.2f})"


def curve_chart(title: str, curve: Curve) -> Chart:
    """Draw every arm against sparsity, with dense and its 99 % as lines."""
    names = dict.fromkeys(cell.arm for cell in curve.cells if cell.arm != "dense")
    found = ((name, [point(100 * cell.sparsity, cell) for cell in curve.arm(name)]) for name in names)
    series = (Series(name, tuple(points), line=len(points) > 1) for name, points in found)
    return score_chart(title, curve.metric, curve.dense.percent, series)


def point(x: float, cell: ArmResult) -> Point:
    """Place a cell's score in a chart, with one standard deviation to each side."""
    score, spread = cell.percent, cell.deviation
    return Point(x, score) if spread is None else Point(x, score, score - spread, score + spread)

"""Table 2 of Gan et al. (AAAI 2022): does one ticket, found on the pre-training objectives, serve every task?

The mask is found once, with the first seed, by pre-training on from θ0 with a tenth of the pre-training's steps a
round. It is then trained on each task from θ0 beside the task's own ticket, a random mask and the dense model. The
pre-training heads are made anew each round, as every head is; the mask covers the backbone alone, whose weights have
the same names under every head.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks
from vlcompress.recipe import Recipe
from vlcompress.report.table import Table
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import (
    Curve,
    curve_of,
    curves_report,
    imp_rows,
    masked_row,
    masks_of,
    rounds_of,
    score_text,
)
from vlcompress.studies.tickets import ticket_recipe
from vlcompress.tickets.engine import columns
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row, control, judged

PRETRAINING = "pretraining"
LEVELS = (0.5, 0.6, 0.7, 0.8)
"""Of the paper's table."""
SMALL_STEPS = 400
"""A tenth of the 4000 steps of the built-in pre-training, at half its batch: 20 to 40 s on one thread of a quiet
machine. The published sizes take a tenth of the official steps (see vlcompress/recipes)."""
ARMS = {"ticket": "the task's own", "pretraining": "found by pre-training", "random": "a random mask"}


@dataclasses.dataclass(frozen=True)
class LevelCurve(Curve):
    """A curve, and the sparsities that were asked for."""

    levels: tuple[float, ...]


class PretrainingTicket:
    """See the top of the file."""

    name = "pretraining-ticket"
    title = "one ticket found by pre-training, on every task (Gan et al. 2022, Table 2)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan a cell for each task.

        Raises:
            VlcompressError: pre-training is asked for as a task to be served.
        """
        if PRETRAINING in choices.tasks:
            raise VlcompressError(
                "task 'pretraining' is where the ticket comes from, not where it is tried: leave it out of --task"
            )
        return [_cell(choices, task) for task in choices.tasks]

    def report(self, results: Mapping[str, LevelCurve]) -> StudyReport:
        """Lay out Table 2: scores by level and arm, and the mean relative drop."""
        levels = sorted({level for curve in results.values() for level in curve.levels})
        report = curves_report(results, lambda *_: (), tables=[_overview(results, levels)], published=("a2",))
        return dataclasses.replace(report, findings=tuple(_finding(results, level) for level in levels))


def source_recipe(choices: Choices, task: str, levels: Sequence[float]) -> Recipe:
    """Make the recipe that a ticket is found with: a task's, or pre-training's with a tenth of its steps."""
    recipe = ticket_recipe(choices, task, levels)
    if task == PRETRAINING and choices.size == "small":
        return recipe.override(training={"steps": SMALL_STEPS})
    return recipe


def _cell(choices: Choices, task: str) -> StudyCell:
    levels = choices.levels or LEVELS
    source, target = (source_recipe(choices, one, levels) for one in (PRETRAINING, task))

    def work(runner: StudyRunner) -> LevelCurve:
        found = masks_of(imp_rows(runner.bench(source), choices.seeds[0], levels))
        bench = runner.bench(target)
        rows = columns(bench.engine, [partial(_column, bench, seed, found) for seed in choices.seeds])
        return LevelCurve(**vars(curve_of(bench, judged(rows, bench.blind))), levels=tuple(levels))

    chain = 1 + rounds_of(target)
    scored = len(choices.seeds) * 2 * len(levels)
    return StudyCell(task, target, chain + len(choices.seeds) * chain + scored, work, scored)


def _column(bench: Experiment, seed: int, found: Sequence[Masks]) -> Iterator[Row]:
    dense, *own = imp_rows(bench, seed, [masks.sparsity for masks in found])
    yield from (dense, *own)
    carried = [partial(masked_row, bench, seed, PRETRAINING, masks) for masks in found]
    yield from bench.engine.together([*carried, *(partial(control, bench, seed, "random", row) for row in own)])


def _drop(curve: Curve, name: str, level: float) -> float:
    """Take the relative drop from dense, in per cent."""
    dense, cell = curve.dense.percent, curve.at(name, level)
    assert cell is not None
    return 100 * (dense - cell.percent) / dense


def _mean_drop(results: Mapping[str, LevelCurve], name: str, level: float) -> float:
    return fmean(_drop(curve, name, level) for curve in results.values())


def _overview(results: Mapping[str, LevelCurve], levels: Sequence[float]) -> Table:
    dense = ("0", "dense", *(score_text(curve.dense) for curve in results.values()), "–")
    rows = [
        (
            f"{100 * level:.0f}",
            words,
            *(score_text(curve.at(name, level)) for curve in results.values()),
            f"{_mean_drop(results, name, level):.2f}",
        )
        for level in levels
        for name, words in ARMS.items()
    ]
    header = ("sparsity %", "mask", *results, "mean relative drop, %")
    return Table("One ticket for every task", header, (dense, *rows), text_columns=(1,))


def _finding(results: Mapping[str, LevelCurve], level: float) -> str:
    universal, own, random = (_mean_drop(results, name, level) for name in (PRETRAINING, "ticket", "random"))
    better = "beats" if universal < random else "does not beat"
    return (
        f"At {100 * level:.0f} % the pre-training ticket drops {universal:.2f} % on average over {len(results)} "
        f"task(s), each task's own ticket {own:.2f} %: it {better} a random mask ({random:.2f} %)."
    )

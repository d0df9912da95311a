"""Figures 4 and 5 of Gan et al. (AAAI 2022): does the ticket of one task serve another?

The mask is found on the source task (or by pre-training) and trained on the target task from θ0; the relative drop is
averaged over targets as in their Table 2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe
from vlcompress.report.plots import Chart, Point, Reference, Series
from vlcompress.report.table import Table
from vlcompress.results import ArmResult
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import (
    dense_row,
    imp_rows,
    masked_row,
    masks_of,
    rounds_of,
    score_text,
    verdict_table,
)
from vlcompress.studies.pretraining_ticket import PRETRAINING, source_recipe
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row, judged
from vlcompress.tickets.verdict import RELAXED

LEVEL = 0.7
CLAIMS = (
    "Gan et al. (2022), figure 4: besides pre-training's, the ticket of GQA is the best for VQA, and that of VQA is "
    "better for GQA than GQA's own.",
    "Figure 4: on VCR at 70 % the ticket of pre-training is 0.71 to 2.69 points better than those of other tasks.",
)


@dataclass(frozen=True)
class TransferResult:
    """The target's dense model, and the source's ticket trained on the target."""

    source: str
    target: str
    level: float
    cells: tuple[ArmResult, ...]

    @property
    def ticket(self) -> ArmResult:
        """The ticket."""
        return self.cells[1]

    @property
    def drop(self) -> float:
        """Relative drop from dense, in per cent."""
        dense, ticket = (cell.percent for cell in self.cells)
        return 100 * (dense - ticket) / dense


Results = Mapping[str, TransferResult]


class Transfer:
    """See the top of the file."""

    name = "transfer"
    title = "tickets found on one task and trained on another (Gan et al. 2022, figures 4 and 5, Table 2)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan a cell for each source and target; pre-training is a source alone.

        Raises:
            VlcompressError: a single task has nothing to transfer to.
        """
        if len(choices.tasks) < 2:
            raise VlcompressError(
                f"a transfer from {', '.join(choices.tasks)} needs a second task: give --task twice or more"
            )
        level = max(choices.levels or (LEVEL,))
        recipes = {task: source_recipe(choices, task, (level,)) for task in choices.tasks}
        targets = [task for task in recipes if task != PRETRAINING]
        return [_cell(recipes, source, target, level) for source in recipes for target in targets]

    def report(self, results: Results) -> StudyReport:
        """Lay out score and relative drop by source and target."""
        sources = list(dict.fromkeys(result.source for result in results.values()))
        targets = list(dict.fromkeys(result.target for result in results.values()))
        scores = tuple((source, *(_score(results, source, target) for target in targets)) for source in sources)
        drops = tuple(_drops(results, source, targets) for source in sources)
        dense = ("dense", *(_dense(results, target) for target in targets))
        judged_cells = [(name, result.ticket) for name, result in results.items()]
        return StudyReport(
            findings=_findings(results, sources, targets),
            tables=(
                Table("Score by source (rows) and target (columns)", ("source", *targets), (dense, *scores)),
                Table("Relative drop from dense, %", ("source", *targets, "mean"), drops),
                verdict_table("Against dense", "cell", judged_cells),
            ),
            charts=(_chart(results, sources, targets),),
            published=("a2",),
            claims=CLAIMS,
            summary=_summary(results, sources, targets),
        )


def _cell(recipes: Mapping[str, Recipe], source: str, target: str, level: float) -> StudyCell:
    def work(runner: StudyRunner) -> TransferResult:
        here, there = runner.bench(recipes[source]), runner.bench(recipes[target])
        seeds = [partial(_column, here, there, seed) for seed in recipes[source].pruning.seeds]
        cells = judged(runner.engine.together(seeds), there.blind)
        return TransferResult(source, target, level, tuple(cell.result() for cell in cells))

    count = len(recipes[source].pruning.seeds) * (3 + rounds_of(recipes[source]))
    return StudyCell(f"{source} to {target}", recipes[target], count, work, scored=len(recipes[source].pruning.seeds))


def _column(here: Experiment, there: Experiment, seed: int) -> list[Row]:
    return [dense_row(there, seed), masked_row(there, seed, "ticket", masks_of(imp_rows(here, seed))[-1])]


def _score(results: Results, source: str, target: str) -> str:
    result = results.get(f"{source} to {target}")
    return score_text(result.ticket) if result else "failed"


def _dense(results: Results, target: str) -> str:
    return next(score_text(result.cells[0]) for result in results.values() if result.target == target)


def _drops(results: Results, source: str, targets: Sequence[str]) -> tuple[str, ...]:
    found = [results.get(f"{source} to {target}") for target in targets]
    values = [one.drop for one in found if one]
    mean = f"{sum(values) / len(values):.2f}" if values else "–"
    return (source, *(f"{one.drop:.2f}" if one else "failed" for one in found), mean)


def _chart(results: Results, sources: Sequence[str], targets: Sequence[str]) -> Chart:
    """Draw the ticket's score as a share of the dense one: a group for each target, a marker for each source."""
    series = tuple(
        Series(f"ticket of {source}", tuple(_points(results, source, place, sources, targets)), line=False)
        for place, source in enumerate(sources)
    )
    return Chart(
        title="Score on a target with the ticket of each source",
        x_label="target task",
        y_label="% of the dense score",
        series=tuple(one for one in series if one.points),
        references=(Reference("dense", 100.0), Reference("99 % of dense", 100 * RELAXED)),
        x_names=tuple(targets),
    )


def _points(
    results: Results, source: str, place: int, sources: Sequence[str], targets: Sequence[str]
) -> Iterator[Point]:
    """Place a source's points, each a little beside those of the other sources; bars are one deviation over seeds."""
    for number, target in enumerate(targets, start=1):
        if result := results.get(f"{source} to {target}"):
            dense, ticket = result.cells
            share, spread = 100 - result.drop, 100 * (ticket.deviation or 0.0) / dense.percent
            x = number + 0.15 * (place - (len(sources) - 1) / 2)
            yield Point(x, share, share - spread, share + spread)


def _findings(results: Results, sources: Sequence[str], targets: Sequence[str]) -> tuple[str, ...]:
    sentences = []
    for target in targets:
        found = {source: one for source in sources if (one := results.get(f"{source} to {target}"))}
        if why := next((one.ticket.nothing_learned for one in found.values()), ""):
            sentences.append(f"{target}: {why}.")
            continue
        drops = {source: one.drop for source, one in found.items()}
        best = min(drops, key=drops.__getitem__)
        own = "its own" if best == target else f"{best}'s"
        its_own = f"{drops[target]:.2f} %" if target in drops else "failed"
        sentences.append(f"{target}: the best ticket is {own} (drop {drops[best]:.2f} %, its own {its_own}).")
    return tuple(sentences)


def _summary(results: Results, sources: Sequence[str], targets: Sequence[str]) -> str:
    """Say the mean drop by source, how many transferred tickets pass, and how often a task's own ticket is the best."""
    drops = {
        source: [one.drop for target in targets if (one := results.get(f"{source} to {target}"))] for source in sources
    }
    means = ", ".join(f"{source} {sum(found) / len(found):.2f} %" for source, found in drops.items() if found)
    others = [one.ticket for one in results.values() if one.source != one.target]
    passing = sum(cell.passes("relaxed") for cell in others)
    level = next(iter(results.values())).level
    own = sum(": the best ticket is its own " in sentence for sentence in _findings(results, sources, targets))
    return (
        f"At {100 * level:.0f} %, mean drop from dense by the task that the ticket was found on: {means}. Of "
        f"{len(others)} tickets trained on another task {passing} do not fail relaxed; a task's own ticket is the best "
        f"on {own} of {len(targets)}."
    )

"""What do blocks cost, and what are they worth? Score against the shape of what is pruned, beside its measured speed.

No paper has this curve. Every pattern runs the same rounds from the same dense model, so that what differs is the shape
alone, and each is compared with unstructured pruning, example by example. Options that may close the gap are tried on
one block pattern, each against the same pattern without it; with another criterion (`--criterion gradient`) every
pattern is ranked by it, and the options are left out.

Trainings are kept and latencies are not: the study run again on a quiet machine measures the speed anew, and trains
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import curve_cells, curve_of, paired
from vlcompress.studies.granularity_report import (
    OptionResult,
    PatternResult,
    Result,
    SpeedResult,
    charts,
    findings,
    row_name,
    summary,
    tables,
)
from vlcompress.studies.latency import MeasuredTicket, measure_tickets
from vlcompress.studies.tickets import ticket_recipe
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import TrainedArm

Rounds = Mapping[float, int]
"""The wanted levels, and the round that reaches each."""

PLAIN = "unstructured"
PATTERNS = (
    PLAIN,
    "block:16x1",
    "block:16x16",
    "block:32x32",
    "block:64x64",
    "block:128x16",
    "neuron+head",
)
WANTED = (0.5, 0.7, 0.9)
"""Levels that are shown."""
ROUNDS = (0.3, 0.5, 0.7, 0.8, 0.9)
"""Levels that are passed on the way: at most half of what is left goes in a round."""

OPTION_PATTERN = "block:16x16"
OPTION_LIMIT = 0.7
"""Options are tried up to this level: beyond it, blocks of a small model have lost what an option could save."""
OPTIONS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "gradient scores": {"pruning": {"criterion": "gradient"}},
    "movement scores": {"pruning": {"criterion": "movement"}},
    "neurons reordered": {"pruning": {"permutation": "neurons"}},
    "blocks that grow": {"pruning": {"growth": "4x4,8x8"}},
    "distillation": {"training": {"distill": 1.0}},
    "parts apart": {"pruning": {"allocation": "modality"}},
    "matrices apart": {"pruning": {"allocation": "uniform"}},
}
"""Changes of the recipe that may close the gap to unstructured pruning, by name."""


class Granularity:
    """See the top of the file."""

    name = "granularity"
    title = "score and measured speed against the shape of what is pruned, and options that may close the gap (new)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan for each task a cell for each pattern, one for each option, and one for the speed of all patterns."""
        return [cell for task in choices.tasks for cell in _cells(choices, task)]

    def report(self, results: Mapping[str, Result]) -> StudyReport:
        """Lay out score, cost and speed by pattern and level, and what the options change."""
        report = tuple(findings(results)), tuple(tables(results)), tuple(charts(results))
        return StudyReport(*report, summary=summary(results))


@dataclass
class Curves:
    """Judged cells of a recipe, trained once however many cells of the study compare with them."""

    _found: dict[str, list[TrainedArm]] = field(default_factory=dict)

    def of(self, runner: StudyRunner, recipe: Recipe) -> list[TrainedArm]:
        """Train a recipe's dense model and rounds with every seed, or give them again."""
        name = recipe.sha256()
        if name not in self._found:
            self._found[name] = curve_cells(runner.bench(recipe))
        return self._found[name]


def _cells(choices: Choices, task: str) -> list[StudyCell]:
    plan, curves = _plan(choices.levels or WANTED), Curves()
    recipes = {pattern: _recipe(choices, task, pattern, plan) for pattern in PATTERNS}
    options = OPTIONS if choices.criterion == Choices.criterion else ()  # each is tried alone
    return [
        *(_pattern_cell(task, recipes, pattern, plan, curves) for pattern in PATTERNS),
        *(_option_cell(task, recipes[OPTION_PATTERN], name, plan, curves) for name in options),
        StudyCell(f"{task} speed", recipes[PLAIN], 0, lambda runner: _speed(runner, task, recipes, plan, curves)),
    ]


def _plan(wanted: Sequence[float]) -> dict[float, int]:
    """Number the round that reaches each wanted level; units round the sparsity, so that it cannot be looked up."""
    passed = _passed(wanted)
    return {level: passed.index(level) + 1 for level in sorted(wanted)}


def _passed(wanted: Sequence[float]) -> list[float]:
    """List every level that is passed on the way to the wanted ones."""
    return sorted({*(level for level in ROUNDS if level < max(wanted)), *wanted})


def _recipe(choices: Choices, task: str, pattern: str, plan: Rounds) -> Recipe:
    schedule = "levels:" + ",".join(f"{100 * level:g}" for level in _passed(list(plan)))
    return ticket_recipe(choices, task, list(plan)).override(pruning={"pattern": pattern, "schedule": schedule})


def _pattern_cell(task: str, recipes: Mapping[str, Recipe], pattern: str, plan: Rounds, curves: Curves) -> StudyCell:
    recipe = recipes[pattern]

    def work(runner: StudyRunner) -> PatternResult:
        bench = runner.bench(recipe)  # a pattern that does not divide the weights is refused before anything is trained
        plain, ours = curves.of(runner, recipes[PLAIN]), curves.of(runner, recipe)
        compared = _compared(plain, ours, plan)
        return PatternResult(**vars(curve_of(bench, ours)), task=task, pattern=pattern, **compared)

    count = max(plan.values()) + (pattern == PLAIN)  # and the dense model, once
    return StudyCell(f"{task} {pattern}", recipe, len(recipe.pruning.seeds) * count, work)


def _option_cell(task: str, base: Recipe, name: str, plan: Rounds, curves: Curves) -> StudyCell:
    recipe = base.override(**OPTIONS[name])
    shorter = _levels_of(recipe, plan)
    without, recipe = (one.override(pruning={"sparsity": max(shorter)}) for one in (base, recipe))

    def work(runner: StudyRunner) -> OptionResult:
        bench = runner.bench(recipe)
        theirs, ours = curves.of(runner, without), curves.of(runner, recipe)
        compared = _compared(theirs, ours, shorter)
        return OptionResult(**vars(curve_of(bench, ours)), task=task, option=name, **compared)

    count = len(recipe.pruning.seeds) * max(shorter.values())
    return StudyCell(f"{task} {OPTION_PATTERN} with {name}", recipe, count, work)


def _levels_of(recipe: Recipe, plan: Rounds) -> Rounds:
    """Choose the levels at which an option is compared with the same pattern without it."""
    found = {level: number for level, number in plan.items() if level <= OPTION_LIMIT} or plan
    if recipe.pruning.growth:  # before the last round its blocks are smaller, and not to be compared
        return {max(found): max(found.values())}
    return found


def _compared(reference: Sequence[TrainedArm], ours: Sequence[TrainedArm], plan: Rounds) -> dict[str, Any]:
    """Compare the levels' rounds with the reference, and name the weights that are gone."""
    differences = {_text(level): paired(_ticket(reference, at), _ticket(ours, at)) for level, at in plan.items()}
    gone = {_text(level): _gone(_ticket(ours, at)) for level, at in plan.items()}
    return {"rounds": {_text(level): at for level, at in plan.items()}, "differences": differences, "gone": gone}


def _gone(cell: TrainedArm) -> tuple[str, ...]:
    """Name the weights of which a level's first ticket keeps nothing: a model can be cut through there."""
    return tuple(name for name, mask in cell.trained[0].masks().items() if not mask.any())


def _ticket(cells: Sequence[TrainedArm], number: int) -> TrainedArm:
    return next(cell for cell in cells if cell.arm == "ticket" and cell.round == number)


def _text(level: float) -> str:
    return f"{100 * level:g}"


def _speed(runner: StudyRunner, task: str, recipes: Mapping[str, Recipe], plan: Rounds, curves: Curves) -> SpeedResult:
    """Measure the first seed's tickets of every pattern and level; a pattern that failed has said why in its cell."""
    tickets: list[MeasuredTicket] = []
    for pattern, recipe in recipes.items():
        try:
            tickets += _tickets(runner.bench(recipe), curves.of(runner, recipe), pattern, plan)
        except VlcompressError as error:
            runner.say(f"not measured: {error}")
    dense = curves.of(runner, recipes[PLAIN])[0].trained[0]
    with runner.engine.quiet():
        return SpeedResult(task, measure_tickets(runner.bench(recipes[PLAIN]), dense, tickets))


def _tickets(bench: Experiment, cells: Sequence[TrainedArm], pattern: str, plan: Rounds) -> list[MeasuredTicket]:
    return [
        MeasuredTicket(
            row_name(pattern, _text(level)), bench, _ticket(cells, number).trained[0], bench.recipe.pruning.pattern
        )
        for level, number in plan.items()
    ]

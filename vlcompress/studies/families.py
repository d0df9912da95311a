"""Tables 3 and 4 of Gan et al. (AAAI 2022): do LXMERT and ViLT have tickets, as UNITER has?"""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import mean

from vlcompress.data.sources import data_folder
from vlcompress.errors import unknown
from vlcompress.models.registry import families_of
from vlcompress.report.table import Table
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import Curve, controls_of, curves_report, run_curve, score_text, trainings_of
from vlcompress.studies.tickets import NINE, ONCE, ticket_recipe
from vlcompress.tasks.build_task import data_of
from vlcompress.tasks.registry import TASKS
from vlcompress.tasks.support_matrix import read_blind
from vlcompress.tickets import verdict

FAMILIES = ("uniter", "lxmert", "vilt")
CONTROLS = ("random", *ONCE)
LEVEL = {"uniter": 0.7, "lxmert": 0.7, "vilt": 0.3}
"""The sparsities of the paper's tables."""


@dataclasses.dataclass(frozen=True)
class FamilyCurve(Curve):
    """A family's curve, and what a model that does not look scores in [0, 1]; None where the data say nothing of it."""

    family: str
    without_looking: float | None


class Families:
    """See the top of the file."""

    name = "families"
    title = "tickets of UNITER, LXMERT and ViLT side by side (Gan et al. 2022, Tables 3 and 4)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan a cell for each family and task that exist together (ViLT answers no GQA).

        Raises:
            VlcompressError: a task that none of the three families has.
        """
        for task in choices.tasks:
            if not set(FAMILIES) & set(families_of(task)):
                raise unknown("task", task, [name for name in TASKS if set(FAMILIES) & set(families_of(name))])
        return [
            _cell(dataclasses.replace(choices, family=family), task)
            for family in FAMILIES
            for task in choices.tasks
            if family in families_of(task)
        ]

    def report(self, results: Mapping[str, FamilyCurve]) -> StudyReport:
        """Lay out each family's sparsest relaxed ticket, and its scores at the paper's sparsity."""
        once = ("one round", "not trained again: magnitude", "Wanda", "Fisher, repaired")
        header = ("cell", "without looking", "dense", "at %", "ticket", "random mask", *once, "sparsest relaxed %")
        table = Table("Families", header, tuple(_row(name, curve) for name, curve in results.items()))
        return curves_report(
            results,
            lambda name, curve: [_finding(name, curve)],
            tables=[table],
            published=("a3", "a4"),
            summary=_summary(results),
        )


def _cell(choices: Choices, task: str) -> StudyCell:
    levels = choices.levels or NINE
    recipe = ticket_recipe(choices, task, levels)
    level = LEVEL[choices.family]

    def work(runner: StudyRunner) -> FamilyCurve:
        curve = run_curve(runner.bench(recipe), CONTROLS, (level,))
        folder = data_folder(recipe.data.source, runner.home, task=data_of(task))
        return FamilyCurve(**vars(curve), family=choices.family, without_looking=read_blind(folder, task))

    count = trainings_of(recipe, CONTROLS, 1)
    return StudyCell(f"{choices.family} {task}", recipe, count, work, controls_of(recipe, CONTROLS, 1))


def learned(curve: FamilyCurve) -> bool:
    """Tell whether the dense model surely beats one that does not look, where the data say what such a one scores."""
    return verdict.learned(mean(curve.dense.scores), curve.examples, curve.without_looking)


def _row(name: str, curve: FamilyCurve) -> tuple[str, ...]:
    level, blind = LEVEL[curve.family], curve.without_looking
    scores = (score_text(curve.at(arm, level)) for arm in ("ticket", *CONTROLS))
    return (
        name,
        "-" if blind is None else f"{100 * blind:.2f}",
        score_text(curve.dense),
        f"{100 * level:.0f}",
        *scores,
        _sparsest(curve),
    )


def _sparsest(curve: FamilyCurve) -> str:
    if not learned(curve):
        return "nothing learned"
    found = curve.sparsest("relaxed")
    return f"{100 * found[0]:.0f}" if found else "none"


def _finding(name: str, curve: FamilyCurve) -> str:
    if curve.without_looking is not None and not learned(curve):
        return (
            f"{name}: dense scores {score_text(curve.dense)}, a model that does not look "
            f"{100 * curve.without_looking:.2f}: nothing was learned here that a ticket could keep or lose."
        )
    found = curve.sparsest("relaxed")
    return f"{name}: {'a relaxed ticket up to ' + f'{100 * found[0]:.0f} %' if found else 'no relaxed ticket'}."


def _summary(results: Mapping[str, FamilyCurve]) -> str:
    """Say each cell's sparsest relaxed ticket, and whether ViLT's is the least sparse, as the paper finds."""
    there = {name: curve for name, curve in results.items() if learned(curve)}
    found = {name: (curve.sparsest("relaxed") or (0.0, "none"))[0] for name, curve in there.items()}
    listed = ", ".join(f"{name} {f'{100 * level:.0f} %' if level else 'none'}" for name, level in found.items())
    lines = [f"The sparsest relaxed ticket: {listed or 'of no cell'}."]
    empty = [name for name in results if name not in there]
    if empty:
        lines.append(f"No better than a model that does not look, so that a ticket shows nothing: {', '.join(empty)}.")
    vilt = [level for name, level in found.items() if name.startswith("vilt")]
    others = [level for name, level in found.items() if not name.startswith("vilt")]
    if vilt and others:
        holds = "holds" if max(vilt) < min(others) else "does not hold"
        lines.append(f"That ViLT's tickets are less sparse than the others' {holds} here.")
    return " ".join(lines)

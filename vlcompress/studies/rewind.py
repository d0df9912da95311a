"""Question 3 of Gan et al. (AAAI 2022): does rewinding to a later step of the dense training help?"""

from collections.abc import Mapping, Sequence

from vlcompress.report.table import Table
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import Curve, near, run_curve, score_text, trainings_of, verdict_table
from vlcompress.studies.tickets import ticket_recipe

RATIOS = (0.0, 0.05, 0.1, 0.2, 0.5)
"""Steps of dense training that are kept, as a share of all steps."""
THREE = (0.5, 0.7, 0.9)
CLAIMS = ("Gan et al. (2022), question 3, on VQA: no ratio has a notable effect; there is a small gain at 90 % alone.",)


class Rewind:
    """See the top of the file."""

    name = "rewind"
    title = "rewinding to a share of the dense training's steps (Gan et al. 2022, question 3)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan a cell for each task and ratio."""
        return [_cell(choices, task, ratio) for task in choices.tasks for ratio in RATIOS]

    def report(self, results: Mapping[str, Curve]) -> StudyReport:
        """Lay out score by ratio and level."""
        levels = sorted({cell.sparsity for curve in results.values() for cell in curve.cells} - {0.0})
        wanted = [level for level in levels if near(level, THREE)] or levels
        header = ("task and share of steps", "dense", *(f"{100 * level:.0f} %" for level in wanted))
        rows = tuple(
            (name, score_text(curve.dense), *(score_text(curve.at("ticket", level)) for level in wanted))
            for name, curve in results.items()
        )
        cells = [
            (name, cell) for name, curve in results.items() for level in wanted if (cell := curve.at("ticket", level))
        ]
        tables = (Table("Score by rewinding ratio", header, rows), verdict_table("Against dense", header[0], cells))
        return StudyReport(tuple(_findings(results, wanted)), tables, claims=CLAIMS)


def _cell(choices: Choices, task: str, ratio: float) -> StudyCell:
    levels = choices.levels or THREE
    recipe = ticket_recipe(choices, task, levels)
    steps = recipe.training.steps
    recipe = recipe.override(pruning={"rewind_step": round(ratio * steps)})

    def work(runner: StudyRunner) -> Curve:
        return run_curve(runner.bench(recipe), ())

    return StudyCell(f"{task} {100 * ratio:.0f} %", recipe, trainings_of(recipe, (), 0), work)


def _findings(results: Mapping[str, Curve], levels: Sequence[float]) -> list[str]:
    sentences = []
    for level in levels:
        cells = {name: cell for name, curve in results.items() if (cell := curve.at("ticket", level)) is not None}
        if len(cells) > 1:
            scores = {name: cell.percent for name, cell in cells.items()}
            best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
            spread = scores[best] - scores[worst]
            sentences.append(
                f"At {100 * level:.0f} %, ratios differ by {spread:.2f} points ({best} best, {worst} worst)."
            )
    return sentences

"""Table 1 and figures 2 and 3 of Gan et al. (AAAI 2022): at which sparsity is there still a ticket, task by task?

The ticket against a random mask on the same weights, its mask on weights shuffled within each layer, on fresh weights
and on a language model's, at every tenth of sparsity; and against pruning the dense model once, trained again or not.
"""

from collections.abc import Mapping, Sequence

from vlcompress.models.language import StartsFromLanguage
from vlcompress.models.registry import family_named
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.report.table import Table
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import Curve, controls_of, curves_report, run_curve, score_text, trainings_of
from vlcompress.tickets.imp import POST_TRAINING
from vlcompress.tickets.verdict import RELAXED

NINE = tuple(round(0.1 * step, 1) for step in range(1, 10))
CONTROLS = ("random", "shuffle", "reinit")
LANGUAGE = "language"
"""One more control, of families that a language model fits."""
ONCE = ("oneshot", *POST_TRAINING)
"""What asks whether the rounds are worth their time."""
ARMS = ("ticket", *CONTROLS, LANGUAGE, *ONCE)
CONTROL_WORDS = {
    "random": "a random mask",
    "oneshot": "pruning in one round",
    "calibrated": "pruning without training afterwards, repaired",
    "shuffle": "its mask on shuffled weights",
    "language": "its mask on a language model's weights",
}


class Tickets:
    """See the top of the file."""

    name = "tickets"
    title = "tickets by task and sparsity, with their controls (Gan et al. 2022, Table 1, figures 2 and 3)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan a cell for each task."""
        return [_cell(choices, task) for task in choices.tasks]

    def report(self, results: Mapping[str, Curve]) -> StudyReport:
        """Lay out the table over tasks, then each task's curve."""
        tables = [_overview(results)]
        return curves_report(results, findings, tables=tables, published=("a1", "a3", "a4"), summary=summary(results))


def ticket_recipe(choices: Choices, task: str, levels: Sequence[float]) -> Recipe:
    """Take a task's published recipe, pruned unstructured by tenths up to the highest level."""
    data = {"source": choices.source} if choices.source else {}
    return default_recipe(choices.family, task, choices.size).override(
        data=data,
        pruning={
            "pattern": "unstructured",
            "schedule": "linear:10",
            "sparsity": max(levels),
            "target": "",
            "criterion": choices.criterion,
            "controls": [],
            "seeds": list(choices.seeds),
        },
    )


def _cell(choices: Choices, task: str) -> StudyCell:
    levels = choices.levels or NINE
    recipe = ticket_recipe(choices, task, levels)

    language = (LANGUAGE,) if isinstance(family_named(choices.family), StartsFromLanguage) else ()
    controls = (*CONTROLS, *language, *ONCE)

    def work(runner: StudyRunner) -> Curve:
        return run_curve(runner.bench(recipe), controls, levels)

    count, scored = (of(recipe, controls, len(levels)) for of in (trainings_of, controls_of))
    return StudyCell(task, recipe, count, work, scored)


def _overview(results: Mapping[str, Curve]) -> Table:
    """Lay out Table 1: a column for each task at its sparsest ticket that passes relaxed."""
    columns = {task: _column(curve) for task, curve in results.items()}
    names = (
        "sparsity %",
        "dense",
        "99 % of it",
        "ticket",
        "random mask",
        "shuffled weights",
        "fresh weights",
        "language model",
        "one round",
        "not trained again: magnitude",
        "not trained again: Wanda",
        "not trained again: Fisher, repaired",
    )
    rows = tuple((name, *(columns[task][place] for task in columns)) for place, name in enumerate(names))
    return Table("The sparsest ticket that passes relaxed (99 % of dense)", ("", *columns), rows)


def _column(curve: Curve) -> tuple[str, ...]:
    found, dense = curve.sparsest("relaxed"), curve.dense
    line = f"{RELAXED * dense.percent:.2f}"
    if found is None:
        return ("none", score_text(dense), line, *["–"] * len(ARMS))
    scores = [score_text(curve.at(name, found[0])) for name in ARMS]
    return (f"{100 * found[0]:.0f} ({found[1]})", score_text(dense), line, *scores)


def findings(task: str, curve: Curve) -> list[str]:
    """Say which of the paper's findings hold on a task's curve, with the figures."""
    relaxed, strict = curve.sparsest("relaxed"), curve.sparsest("strict")
    if relaxed is None:
        return [f"{task}: no level passes, not even within noise: there is no relaxed ticket here."]
    sparsity = relaxed[0]
    ticket = curve.at("ticket", sparsity)
    sentences = [
        f"{task}: the sparsest relaxed ticket is at {100 * sparsity:.0f} % ({relaxed[1]}); strict: "
        f"{f'{100 * strict[0]:.0f} % ({strict[1]})' if strict else 'none'}."
    ]
    for name, words in CONTROL_WORDS.items():
        other = curve.at(name, sparsity)
        if ticket and other:
            gap = ticket.percent - other.percent
            verb = "beats" if gap > 0 else "does not beat"
            sentences.append(f"{task}: at {100 * sparsity:.0f} % the ticket {verb} {words} ({gap:+.2f} points).")
    return sentences


def summary(results: Mapping[str, Curve]) -> str:
    """Say each task's sparsest tickets and distance from the controls, and whether the paper's finding holds."""
    relaxed = {task: curve.sparsest("relaxed") for task, curve in results.items()}
    holds = [task for task, found in relaxed.items() if found and found[0] >= 0.495]
    fails = [task for task in relaxed if task not in holds]
    sentences = [_line(task, curve) for task, curve in results.items()]
    verdict = [f"holds on {', '.join(holds)}"] * bool(holds) + [f"does not hold on {', '.join(fails)}"] * bool(fails)
    return f"{' '.join(sentences)} That relaxed tickets exist at 50 % and above {' and '.join(verdict)}."


def _line(task: str, curve: Curve) -> str:
    relaxed, strict = curve.sparsest("relaxed"), curve.sparsest("strict")
    if relaxed is None:
        return f"{task}: no relaxed ticket at any level."
    cells = {name: curve.at(name, relaxed[0]) for name in ("ticket", "random", "shuffle")}
    scores = {name: cell.percent for name, cell in cells.items() if cell}
    gaps = [
        f"{scores['ticket'] - scores[name]:+.2f} points from {words}"
        for name, words in (("random", "a random mask"), ("shuffle", "its mask on shuffled weights"))
        if name in scores
    ]
    return (
        f"{task}: relaxed up to {100 * relaxed[0]:.0f} % ({relaxed[1]}), "
        f"strict {f'up to {100 * strict[0]:.0f} % ({strict[1]})' if strict else 'at no level'}; "
        f"there the ticket is {' and '.join(gaps)}."
    )

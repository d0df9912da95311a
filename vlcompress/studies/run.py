"""Running a study: cell by cell, failures kept apart, ``study.json`` and ``study.html`` at the end."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.errors import VlcompressError
from vlcompress.report.markup import figure, listing, paragraph, section, table
from vlcompress.report.style import CSS
from vlcompress.report.svg import draw
from vlcompress.studies.base import Choices, Done, Json, Lab, Shown, Study, StudyCell, Table
from vlcompress.studies.estimate import seconds_of_a_training
from vlcompress.studies.published import PublishedTable, published_table

FOLDER = "studies"


@dataclass(frozen=True)
class Outcome:
    """A study that was run.

    Attributes:
        folder: holds ``study.json`` and ``study.html``.
        document: what ``study.json`` says.
        text: findings and tables for people.
    """

    folder: Path
    document: Json
    text: str


def run_study(study: Study, choices: Choices, lab: Lab) -> Outcome:
    """Run every cell and write what came under the home.

    Raises:
        VlcompressError: no cell succeeded, or an impossible cell was asked for.
    """
    done = _run(study.cells(choices), lab)
    if not done.results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in done.failed.items())
        raise VlcompressError(f"no cell of study '{study.name}' succeeded: {reasons}")
    shown = study.show(done.results)
    folder = lab.home / FOLDER / study.name
    folder.mkdir(parents=True, exist_ok=True)
    facts = document(study, choices, done, shown)
    write_file(folder / "study.json", dumps(facts))
    write_file(folder / "study.html", page(study, done, shown))
    return Outcome(folder, facts, _text(done, shown, folder))


def describe(studies: Iterable[Study]) -> str:
    """List studies with what they ask."""
    return "\n".join(f"{study.name:12} {study.title}" for study in studies)


def dry(study: Study, choices: Choices, lab: Lab) -> tuple[Json, str]:
    """Say what a study would train and how long that takes at most on this machine, as JSON and for people."""
    cells = study.cells(choices)
    each = _seconds_of_a_training(cells, lab)
    table_ = plan(cells, each)
    note = "trainings that are there already, and those that cells share, are not done again; scoring is not counted"
    return {"seconds_each": each, **dataclasses.asdict(table_)}, f"{plain(table_)}\n{note}"


def _seconds_of_a_training(cells: Sequence[StudyCell], lab: Lab) -> dict[str, float]:
    """Time a training of each cell; those of the same model, data and steps are timed once."""
    timed: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for cell in cells:
        alike = str((cell.recipe.model, cell.recipe.data, cell.recipe.training))
        if alike not in timed:
            timed[alike] = seconds_of_a_training(lab.bench(cell.recipe))
        seconds[cell.name] = timed[alike]
    return seconds


def _text(done: Done, shown: Shown, folder: Path) -> str:
    parts = [*shown.findings, *(plain(one) for one in shown.tables), *_failures(done.failed)]
    return "\n\n".join([*parts, f"report: {folder / 'study.html'}"])


def plain(one: Table) -> str:
    """Lay a table out in columns."""
    rows = [one.header, *one.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(one.header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in one.text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([one.title, *lines])


def _run(cells: Sequence[StudyCell], lab: Lab) -> Done:
    results: dict[str, Json] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for number, cell in enumerate(cells, start=1):
        lab.say(f"[{number}/{len(cells)}] {cell.name}")
        started = time.monotonic()
        try:
            results[cell.name] = cell.work(lab)
        except VlcompressError as error:
            failed[cell.name] = str(error)
            lab.say(f"failed: {error}")
        seconds[cell.name] = round(time.monotonic() - started, 1)
    return Done(results, failed, seconds)


def plan(cells: Sequence[StudyCell], seconds_each: Mapping[str, float]) -> Table:
    """Say what a study would train, and how long that takes at most.

    Args:
        cells: of the study.
        seconds_each: of one training of each cell on this machine, by the cell's name.
    """
    minutes = {cell.name: cell.trainings * seconds_each[cell.name] / 60 for cell in cells}
    rows = [(cell.name, cell.recipe.model.size, str(cell.trainings), f"{minutes[cell.name]:.1f}") for cell in cells]
    total = str(sum(cell.trainings for cell in cells))
    header = ("cell", "size", "trainings at most", "minutes at most")
    return Table("What would be run", header, (*rows, ("all", "", total, f"{sum(minutes.values()):.1f}")))


def document(study: Study, choices: Choices, done: Done, shown: Shown) -> Json:
    """Give everything about a study as plain JSON."""
    return {
        "study": study.name,
        "title": study.title,
        "choices": dataclasses.asdict(choices),
        "environment": environment(),
        "seconds": dict(done.seconds),
        "failed": dict(done.failed),
        "findings": list(shown.findings),
        "tables": [dataclasses.asdict(one) for one in shown.tables],
        "results": dict(done.results),
    }


def page(study: Study, done: Done, shown: Shown) -> str:
    """Give the study as one HTML page that refers to nothing outside itself."""
    title = f"Study: {study.name}"
    parts = (f"<h1>{escape(title)}</h1>", paragraph(study.title, "headline"), body(done, shown))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def body(done: Done, shown: Shown) -> str:
    """Give the sections of a study: findings, our charts and tables, failures, and what the papers report."""
    ours = [figure(draw(chart), chart.title) for chart in shown.charts]
    ours += [paragraph(one.title) + table(one.header, one.rows, text_columns=one.text_columns) for one in shown.tables]
    parts = [
        section("What came out", listing(shown.findings)) if shown.findings else "",
        section("Measured here, on built-in or own data", *ours),
        section("Cells that failed", listing(_failures(done.failed))) if done.failed else "",
        section("Published, on other data", *(_published(published_table(name)) for name in shown.published)),
    ]
    return "\n".join(part for part in parts if part)


def _failures(failed: Mapping[str, str]) -> list[str]:
    return [f"{name}: {reason}" for name, reason in failed.items()]


def _published(one: PublishedTable) -> str:
    rows = [(row.name, *row.cells()) for row in one.rows]
    return paragraph(f"{one.title} ({one.where} of {one.paper})") + table(("", *one.columns), rows)

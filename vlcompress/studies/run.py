"""Running a study: cell by cell, failures kept apart, ``study.json`` and ``study.html`` at the end."""

import dataclasses
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vlcompress.artefacts import dumps, read_entry, write_file
from vlcompress.bench.environment import environment
from vlcompress.devices import CPU, Compute, computed_on
from vlcompress.errors import VlcompressError
from vlcompress.report.table import Table, terminal
from vlcompress.results import to_json
from vlcompress.studies.base import Choices, Done, Json, Study, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.estimate import seconds_of_a_training
from vlcompress.studies.page import DOCUMENT, FOLDER, failures, page, report_document
from vlcompress.tickets.disk import Asked, tell_size, training_names
from vlcompress.tickets.open_experiment import rehearsed_experiment
from vlcompress.tickets.store import TIME


@dataclass(frozen=True)
class StudyOutcome:
    """A study that was run.

    Attributes:
        folder: holds ``study.json`` and ``study.html``.
        document: what ``study.json`` says.
        text: findings and tables for people.
    """

    folder: Path
    document: Json
    text: str


def run_study(study: Study, choices: Choices, runner: StudyRunner) -> StudyOutcome:
    """Run every cell and write what came under the home, in a folder named after the study and its choices.

    Raises:
        VlcompressError: no cell succeeded, or an impossible cell was asked for.
    """
    cells = study.cells(choices)
    if runner.progress is not None:
        runner.progress.plan(sum(cell.trainings for cell in cells))
    _tell_size(cells, runner)
    done = _run(cells, runner)
    if not done.results:
        raise _nothing(study, done.failed)
    report = study.report(done.results)
    folder = runner.home / FOLDER / folder_name(study, choices, runner.compute)
    folder.mkdir(parents=True, exist_ok=True)
    facts = document(study, choices, done, report, runner.home) | computed_on(runner.compute)
    write_file(folder / DOCUMENT, dumps(facts))
    write_file(folder / "study.html", page(facts))
    return StudyOutcome(folder, facts, _text(done, report, folder))


def _tell_size(cells: Sequence[StudyCell], runner: StudyRunner) -> None:
    """Say how much the cells write at most; one that is refused says why in its turn."""
    asked = []
    for cell in cells:
        with suppress(VlcompressError):
            asked.append(Asked(runner.bench(cell.recipe), cell.trainings, cell.scored))
    if asked:
        tell_size(asked)


def describe(studies: Iterable[Study]) -> str:
    """List studies with what they ask."""
    return "\n".join(f"{study.name:18} {study.title}" for study in studies)


def dry(study: Study, choices: Choices, runner: StudyRunner) -> tuple[Json, str]:
    """Say what a study would train and how long that takes at most on this machine, as JSON and for people.

    Nothing is written. Cells that a run would refuse are reported with their reason, as in a run.

    Raises:
        VlcompressError: every cell would be refused, or an impossible cell was asked for.
    """
    cells = study.cells(choices)
    each, failed, written = _seconds_of_a_training(cells, runner)
    if not each:
        raise _nothing(study, failed)
    table = plan([cell for cell in cells if cell.name in each], each)
    note = "trainings that are there already, and those that cells share, are not done again; scoring is not counted"
    text = "\n".join([plain(table), note, *failures(failed)])
    return {"seconds_each": each, "bytes": written, "failed": failed, **dataclasses.asdict(table)}, text


def _nothing(study: Study, failed: Mapping[str, str]) -> VlcompressError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    return VlcompressError(f"no cell of study '{study.name}' succeeded: {reasons}")


def _seconds_of_a_training(
    cells: Sequence[StudyCell], runner: StudyRunner
) -> tuple[dict[str, float], dict[str, str], int]:
    """Time a training of each cell, find the cells that are refused, by name, and count the bytes of all others.

    Cells of the same model, data and training are timed once.
    """
    timed: dict[str, float] = {}
    seconds, failed = dict[str, float](), dict[str, str]()
    asked: list[Asked] = []
    with tempfile.TemporaryDirectory() as scratch:
        for cell in cells:
            try:
                bench = rehearsed_experiment(
                    cell.recipe, runner.home, Path(scratch), compute=runner.compute, say=runner.say
                )
            except VlcompressError as error:
                failed[cell.name] = str(error)
                continue
            alike = str((cell.recipe.model, cell.recipe.data, cell.recipe.training))
            if alike not in timed:
                timed[alike] = seconds_of_a_training(bench)
            seconds[cell.name] = timed[alike]
            asked.append(Asked(replace(bench, home=runner.home), cell.trainings, cell.scored))
        return seconds, failed, tell_size(asked) if asked else 0


def _text(done: Done, report: StudyReport, folder: Path) -> str:
    parts = [*report.findings, *(plain(one) for one in report.tables), *failures(done.failed)]
    return "\n\n".join([*parts, f"report: {folder / 'study.html'}"])


def plain(one: Table) -> str:
    """Lay a table out in columns, its title above."""
    return "\n".join([one.title, terminal(one)])


def _run(cells: Sequence[StudyCell], runner: StudyRunner) -> Done:
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}

    def run(number: int, cell: StudyCell) -> None:
        runner.say(f"[{number}/{len(cells)}] {cell.name}")
        started = time.monotonic()
        try:
            results[cell.name] = cell.work(runner)
        except VlcompressError as error:
            failed[cell.name] = str(error)
            runner.say(f"failed: {error}")
        seconds[cell.name] = round(time.monotonic() - started, 1)

    runner.engine.together([partial(run, number, cell) for number, cell in enumerate(cells, start=1)])
    order = [cell.name for cell in cells].index  # side by side they end in any order
    return Done({name: results[name] for name in sorted(results, key=order)}, failed, seconds)


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


def document(study: Study, choices: Choices, done: Done, report: StudyReport, home: Path) -> Json:
    """Write everything about a study as plain JSON."""
    results = to_json(done.results)
    return {
        "study": study.name,
        "title": study.title,
        "command": command_of(study, choices),
        "choices": dataclasses.asdict(choices),
        "environment": environment(),
        "seconds": dict(done.seconds),
        "trainings": trained(results, home),
        "failed": dict(done.failed),
        **report_document(report),
        "results": results,
    }


def trained(results: Mapping[str, Json], home: Path) -> Json:
    """Count the distinct trainings behind results, and add up the seconds that they took when they were done.

    Returns:
        "count"; "timed", how many of them say how long they took; "seconds", the sum of those.
    """
    names = sorted(set(training_names(results)))
    times = [home / "trainings" / name / TIME for name in names]
    seconds = [read_entry(path, "seconds", kind=float) for path in times if path.is_file()]
    return {"count": len(names), "timed": len(seconds), "seconds": round(sum(seconds), 1)}


def folder_name(study: Study, choices: Choices, compute: Compute = CPU) -> str:
    """Name a study's folder after what differs from the default, so that studies of other choices sit beside it."""
    parts = [study.name]
    for name, values in _chosen(choices):
        if name in ("seeds", "levels"):
            numbers = (f"{100 * value:g}" if name == "levels" else str(value) for value in values)
            parts.append(f"{name}-{'-'.join(numbers)}")
        else:
            parts += values
    parts += compute.identity().values()
    return "-".join(re.sub(r"[^a-z0-9_.]+", "-", part.lower()).strip("-") for part in parts)[:120]


def command_of(study: Study, choices: Choices) -> str:
    """Spell the command that runs a study with these choices."""
    words = [f"vlcompress study {study.name}"]
    for name, values in _chosen(choices):
        if name in ("seeds", "levels"):
            words.append(f"--{name} {','.join(f'{value:g}' for value in values)}")
        else:
            words += [f"{OPTIONS.get(name, f'--{name}')} {value}" for value in values]
    return " ".join(words)


OPTIONS = {"family": "--model", "tasks": "--task", "source": "--data"}
"""Choices whose options have other names."""


def _chosen(choices: Choices) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """List the choices that differ from the default, with their values."""
    for name in ("family", "tasks", "size", "source", "criterion", "seeds", "levels"):
        chosen = getattr(choices, name)
        if chosen != getattr(Choices(), name):
            yield name, chosen if isinstance(chosen, tuple) else (chosen,)

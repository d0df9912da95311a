"""vlcompress study: run an experiment of the papers."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from vlcompress.cli import options


@click.command()
@click.argument("name", required=False)
@click.option("--model", "family", default="lxmert", show_default=True, help="Model family.")
@click.option("--task", "tasks", multiple=True, default=("vqa",), show_default=True, help="Task; may be repeated.")
@click.option("--size", default="small", show_default=True, help="Model size.")
@click.option("--data", "source", default="", help="scenes:SIZE for built-in data, or a folder.")
@click.option(
    "--seeds", type=options.WHOLE_NUMBERS, default="0,1,2", show_default=True, help="Seeds with commas between them."
)
@click.option(
    "--levels",
    type=options.SPARSITIES,
    default=(),
    help="Sparsities with commas between them; the study's own by default.",
)
@click.option("--criterion", default="magnitude", show_default=True, help="What tickets are ranked by.")
@click.option("--dry-run", is_flag=True, help="Only say what would be trained, and how long it takes at most.")
@options.track
@options.home
@options.computing(training=True, shared=True)
@options.as_json
def command(
    name: str | None, dry_run: bool, track: str | None, home: Path, compute: Any, as_json: bool, **choices: Any
) -> None:
    """Run the study NAME (without NAME: list them). An interrupted study continues; studies share trainings."""
    from vlcompress.studies.base import Choices, StudyRunner
    from vlcompress.studies.registry import STUDIES, study_named
    from vlcompress.studies.run import describe, dry
    from vlcompress.training.ranks import on_devices

    if name is None:
        options.show({one.name: one.title for one in STUDIES.values()}, describe(STUDIES.values()), as_json)
        return
    study = study_named(name)
    if dry_run:
        runner = StudyRunner(home, compute, options.say)
        options.show(*dry(study, Choices(**choices), runner), as_json=as_json)
        return
    result = on_devices(compute, partial(_run, name, Choices(**choices), home, compute, track))
    options.show(result.document, result.text, as_json)


def _run(name: str, choices: Any, home: Path, compute: Any, track: str | None) -> Any:
    """Run a study, in this process or in the first of several."""
    from vlcompress.studies.base import StudyRunner
    from vlcompress.studies.registry import study_named
    from vlcompress.studies.run import run_study

    with click.Context(command):  # at whose end progress leaves the terminal
        runner = StudyRunner(home, compute, options.say, options.watching(track, home))
        return run_study(study_named(name), choices, runner)

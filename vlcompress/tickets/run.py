"""A run from recipe to ticket: train every arm, write ``run.json`` and ``ticket/``, and find them done."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import vlcompress
from vlcompress.artefacts import identity
from vlcompress.data.sources import SCENES
from vlcompress.devices import AUTO, CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.pruning.budget import Pricing
from vlcompress.recipe import Recipe, parse_recipe
from vlcompress.results import DataRead, RunResult, load, save, to_json
from vlcompress.tasks.build_task import PRETRAINING
from vlcompress.tickets.budgeting import budget_of
from vlcompress.tickets.card import ticket_card
from vlcompress.tickets.checks import tell_no_faster
from vlcompress.tickets.engine import Engine
from vlcompress.tickets.experiment import Experiment, Say
from vlcompress.tickets.imp import TrainedArm, ticket_of, train_arms
from vlcompress.tickets.open_experiment import checked_experiment, rehearsed_experiment
from vlcompress.tickets.store import WEIGHTS
from vlcompress.tickets.ticket import form_of, save_ticket
from vlcompress.training.watching import Watcher

DOCUMENT = "run.json"


@dataclass(frozen=True)
class Run:
    """A finished run on disk: ``run.json``, ``ticket/``, and what later commands put beside them."""

    folder: Path

    @property
    def ticket(self) -> Path:
        """The ticket's folder."""
        return self.folder / "ticket"

    @property
    def is_finished(self) -> bool:
        """Whether it has been run to its end."""
        return (self.folder / DOCUMENT).is_file()

    @property
    def home(self) -> Path:
        """The folder that holds runs, trainings and built-in data."""
        return self.folder.parent

    def result(self) -> RunResult:
        """Read ``run.json``."""
        return load(RunResult, self.folder / DOCUMENT)

    def training(self, arm: str, round_: int = 0) -> Path:
        """Find the folder of the first seed's training of an arm ("dense", "ticket", ...) and round.

        Raises:
            VlcompressError: no such cell, or its training is no longer on the disk.
        """
        cells = [cell for cell in self.result().arm(arm) if cell.round == round_]
        if not cells:
            raise VlcompressError(f"run '{self.folder}' has no arm '{arm}' with round {round_}")
        folder = self.home / "trainings" / cells[0].trainings[0]
        if not folder.is_dir():
            raise VlcompressError(f"training '{folder}' is gone: run the same `vlcompress prune` again to make it anew")
        return folder

    def recipe(self) -> Recipe:
        """Read the recipe that made it."""
        return parse_recipe(self.result().recipe)


def find_ticket(
    recipe: Recipe,
    home: Path,
    *,
    compute: Compute = CPU,
    say: Say = print,
    progress: Watcher | None = None,
    pricing: Callable[[Experiment], Pricing] | None = None,
    trial: Callable[[Experiment], None] | None = None,
    engine: Engine | None = None,
) -> Run:
    """Run a recipe to its ticket, or find it done.

    Args:
        recipe: what to run.
        home: folder for runs, trainings and built-in data.
        compute: where to train, and in what; a run on another device or in another dtype is another run.
        say: called with a line at each step.
        progress: watches every training.
        pricing: tells what heads and neurons cost, for a recipe with a target
            (`vlcompress.bench.pricing.pricing_of`).
        trial: tries on the untrained model what will be asked of the ticket (`vlcompress.export.trial.try_checkpoint`).
        engine: who does the trainings; None does them here, in turn.

    Raises:
        VlcompressError: anything in the recipe or the data that does not fit, or a target out of reach, before the
            first training starts.
    """
    fitted = None
    if compute.micro_batch == AUTO:  # what fits is part of the run's name
        fitted = checked_experiment(recipe, home, compute=compute, say=say, progress=progress)
        compute = fitted.compute
    run, experiment = _found(recipe, home, compute=compute, say=say, progress=progress)
    if run.is_finished:
        return run
    experiment = experiment or fitted
    experiment = experiment or checked_experiment(recipe, home, compute=compute, say=say, progress=progress)
    _price(experiment, pricing)
    tell_no_faster(experiment)
    if trial is not None:
        trial(experiment)
    experiment.engine = engine or experiment.engine
    keep_run(run, experiment, train_arms(experiment))
    return run


def keep_run(run: Run, experiment: Experiment, cells: list[TrainedArm], **facts: Any) -> None:
    """Write a run that is trained: its ticket, then ``run.json``; `facts` are fields of that beside the usual ones."""
    result = replace(_result(experiment, cells), **facts)
    _write_ticket(run, experiment, cells, result)
    save(result, run.folder / DOCUMENT)


def _price(experiment: Experiment, pricing: Callable[[Experiment], Pricing] | None) -> None:
    """Learn what the model costs; refuse a target that no ticket reaches, and say how far one could go."""
    if experiment.recipe.pruning.target and pricing is not None:
        experiment.pricing = pricing(experiment)
    budget = budget_of(experiment)
    if budget is not None:
        experiment.say(budget.check(experiment.keep_all()))


def _found(
    recipe: Recipe, home: Path, *, compute: Compute, say: Say, progress: Watcher | None = None
) -> tuple[Run, Experiment | None]:
    """Find the run of a recipe, finished or not, and the experiment if what its paths hold had to be looked at."""
    run, experiment = Run(home / run_name(recipe, compute)), None
    if run.is_finished and _reads_paths(recipe):
        experiment = checked_experiment(recipe, home, compute=compute, say=say, progress=progress)
        run = _run_on(experiment, run, say)
    if run.is_finished:
        say(f"this recipe has been run: {run.folder}")
    return run, experiment


def _run_on(experiment: Experiment, run: Run, say: Say) -> Run:
    """Keep to the finished run if it read what the recipe's paths hold now, else to the run of the same recipe on that.

    A recipe names data, checkpoint and vocabulary by paths, under which other things may lie by now, or in another
    project.
    """
    now, then = _read_by(experiment), run.result()
    changed = [_WORDS[what] for what, content in now.items() if getattr(then, what) not in (content, None)]
    if not changed:
        return run
    say(
        f"the {' and the '.join(changed)} of this recipe changed since {run.folder} was made: it is run anew, beside it"
    )
    return Run(run.folder.with_name(f"{run.folder.name}-{identity(to_json(now))[:6]}"))


def _reads_paths(recipe: Recipe) -> bool:
    """Say whether a recipe reads anything but what is built in, which no other content can take the place of.

    Pre-training counts: how a family reads the built-in data for it is a part of the data's identity.
    """
    built_in = recipe.data.source.partition(":")[0] == SCENES and recipe.model.checkpoint in ("built-in", "none")
    return not built_in or bool(recipe.data.vocabulary) or recipe.data.task == PRETRAINING


_WORDS = {"data": "data", "theta0_sha256": "checkpoint", "vocabulary_sha256": "vocabulary"}


def _read_by(experiment: Experiment) -> dict[str, Any]:
    """Name by their content what a run reads from paths of its recipe, as ``run.json`` does."""
    return {
        "data": DataRead(*experiment.data, len(experiment.score_task)),
        "theta0_sha256": experiment.theta0_sha256,
        "vocabulary_sha256": experiment.vocabulary_sha256,
    }


def run_name(recipe: Recipe, compute: Compute) -> str:
    """Name a run's folder: by its recipe, and by where it is computed unless that is the default."""
    computed = compute.for_batch(recipe.training.most_examples).identity()
    return recipe.name() + (f"-{identity(computed)[:6]}" if computed else "")


def rehearse(
    recipe: Recipe,
    home: Path,
    *,
    compute: Compute,
    say: Say = print,
    trial: Callable[[Experiment], None] | None = None,
    pricing: Callable[[Experiment], Pricing] | None = None,
) -> Compute:
    """Refuse what `find_ticket` would refuse before its first training, write nothing, and say where it would train.

    Args:
        recipe: what is to be run.
        home: folder for runs, trainings and built-in data.
        compute: where to train and in what.
        say: warned of what has no effect.
        trial: as for `find_ticket`.
        pricing: as for `find_ticket`, whose prices are kept for it where the data are there; None prices no target.

    Raises:
        VlcompressError: as `find_ticket`, with the same words.
    """
    if compute.micro_batch != AUTO:
        run, _ = _found(recipe, home, compute=compute, say=say)
        if run.is_finished:
            return compute
    with tempfile.TemporaryDirectory() as scratch:
        experiment = rehearsed_experiment(recipe, home, Path(scratch), compute=compute, say=say)
        if pricing is not None:
            _price(experiment, pricing)
        tell_no_faster(experiment)
        if trial is not None:
            trial(experiment)
        return experiment.compute


def newest_run(home: Path) -> Run:
    """Find the run that finished last.

    Raises:
        VlcompressError: there is none.
    """
    finished = sorted(home.glob(f"*/{DOCUMENT}"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise VlcompressError(f"there is no finished run in '{home}': run `vlcompress prune` first, or give a path")
    return Run(finished[-1].parent)


def _write_ticket(run: Run, experiment: Experiment, cells: list[TrainedArm], result: RunResult) -> None:
    first, family = ticket_of(cells).trained[0], experiment.family
    document, head = to_json(result), experiment.train_task.head
    ticket = first.ticket(document, family.name, experiment.config, head, experiment.vocabulary)
    form = form_of(family, ticket)
    card = ticket_card(ticket, cells, form, experiment.compute)
    longest = family.preprocessing(ticket.config)["longest_text"]
    save_ticket(run.ticket, ticket, card, form=form, longest=longest, weights=first.folder / WEIGHTS)


def _result(experiment: Experiment, cells: list[TrainedArm]) -> RunResult:
    return RunResult(
        recipe=experiment.recipe.document(),
        recipe_sha256=experiment.recipe.sha256(),
        **_read_by(experiment),
        metric=experiment.score_task.metric,
        prunable_weights=experiment.prunable.weights,
        backbone_weights=experiment.prunable.backbone,
        layer_sparsity=ticket_of(cells).trained[0].layer_sparsity(),
        cells=tuple(cell.result() for cell in cells),
        computed_on=experiment.compute.identity() or None,
        versions={"vlcompress": vlcompress.__version__, "torch": torch.__version__},
    )

"""A run from recipe to ticket: open what the recipe names, run every arm, write ``run.json`` and ``ticket/``."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import vlcompress
from vlcompress.artefacts import identity
from vlcompress.data.pretraining import read_all_answers
from vlcompress.data.sources import SCENES, data_folder, is_there, place_of, smallest
from vlcompress.data.tokenizer import SPECIAL_TOKENS, WordPiece
from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family
from vlcompress.models.registry import FAMILIES, family_named
from vlcompress.recipe import Recipe, parse_recipe
from vlcompress.results import DataRead, RunResult, load, save, to_json
from vlcompress.tasks.build_task import (
    build_eval_task,
    build_train_task,
    check_apart,
    check_labels,
    data_of,
    open_data,
    tell_stand_ins,
    tell_unlisted,
    without_long_texts,
)
from vlcompress.tasks.registry import task_of
from vlcompress.tasks.support_matrix import blind_of
from vlcompress.tickets.card import ticket_card
from vlcompress.tickets.checks import check_length, check_run
from vlcompress.tickets.experiment import Experiment, Say
from vlcompress.tickets.imp import Cell, run_cells, ticket_of
from vlcompress.tickets.ticket import save_ticket
from vlcompress.training.loop import Progress

DOCUMENT = "run.json"
BUILT_IN = Path(vlcompress.__file__).parent / "weights"


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
    recipe: Recipe, home: Path, *, compute: Compute = CPU, say: Say = print, progress: Progress | None = None
) -> Run:
    """Run a recipe to its ticket, or find it done.

    Args:
        recipe: what to run.
        home: folder for runs, trainings and built-in data.
        compute: where to train, and in what; a run on another device or in another dtype is another run.
        say: told one line at each step.
        progress: called after every training step.

    Raises:
        VlcompressError: anything in the recipe or the data that does not fit, before the first training starts.
    """
    run, experiment = Run(home / run_name(recipe, compute)), None
    if run.is_finished and _reads_paths(recipe):
        experiment = checked_experiment(recipe, home, compute=compute, say=say, progress=progress)
        run = _run_on(experiment, run, say)
    if run.is_finished:
        say(f"this recipe has been run: {run.folder}")
        return run
    experiment = experiment or checked_experiment(recipe, home, compute=compute, say=say, progress=progress)
    cells = run_cells(experiment)
    _write_ticket(run, experiment, cells)
    save(_result(experiment, cells), run.folder / DOCUMENT)
    return run


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
    """Say whether a recipe reads anything but what is built in, which no other content can take the place of."""
    built_in = recipe.data.source.partition(":")[0] == SCENES and recipe.model.checkpoint in ("built-in", "none")
    return not built_in or bool(recipe.data.vocabulary)


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
    computed = compute.identity()
    return recipe.name() + (f"-{identity(computed)[:6]}" if computed else "")


def rehearse(recipe: Recipe, home: Path, *, compute: Compute, say: Say = print) -> None:
    """Refuse what `find_ticket` would refuse before its first training, and write nothing.

    Args:
        recipe: what is to be run.
        home: folder for runs, trainings and built-in data.
        compute: where to train and in what.
        say: told what has no effect.

    Raises:
        VlcompressError: as `find_ticket`, with the same words.
    """
    run = Run(home / run_name(recipe, compute))
    if run.is_finished and _reads_paths(recipe):
        run = _run_on(checked_experiment(recipe, home, compute=compute, say=say), run, say)
    if run.is_finished:
        say(f"this recipe has been run: {run.folder}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        rehearsed_experiment(recipe, home, Path(scratch), compute=compute, say=say)


def checked_experiment(
    recipe: Recipe, home: Path, *, compute: Compute, say: Say = print, progress: Progress | None = None
) -> Experiment:
    """Open what a recipe names to train on, and refuse what cannot work: before built-in data is made for it.

    Raises:
        VlcompressError: anything in the recipe or the data that does not fit.
    """
    source = recipe.data.source
    if not is_there(place_of(source, home, task=data_of(recipe.data.task)), source):
        with tempfile.TemporaryDirectory() as scratch:
            rehearsed_experiment(recipe, home, Path(scratch), compute=compute, say=lambda line: None)
    experiment = open_experiment(recipe, home, compute=compute, say=say, progress=progress)
    check_run(experiment)
    check_length(experiment)
    return experiment


def rehearsed_experiment(
    recipe: Recipe, home: Path, scratch: Path, *, compute: Compute, say: Say = print
) -> Experiment:
    """Open what a recipe names, and refuse what cannot work, without writing under `home`.

    Built-in data that has not been made yet is stood in for by the least of its kind, which has the same splits, labels
    and words.

    Args:
        recipe: what is to be run.
        home: folder for runs, trainings and built-in data.
        scratch: folder for the data that stands in; the experiment is of use for as long as it is there.
        compute: where to train and in what.
        say: told what has no effect.

    Raises:
        VlcompressError: as `checked_experiment`; only a rewinding step beyond data that has not been made is not seen.
    """
    source, task = recipe.data.source, data_of(recipe.data.task)
    place = place_of(source, home, task=task)
    if is_there(place, source):
        return checked_experiment(recipe, home, compute=compute, say=say)
    small = recipe.override(data={"source": smallest(source)})
    try:
        data_folder(small.data.source, scratch, lambda line: None, task=task)
        experiment = open_experiment(small, scratch, compute=compute, say=say)
        check_run(experiment)
    except VlcompressError as error:
        stand_in = place_of(small.data.source, scratch, task=task)
        raise VlcompressError(str(error).replace(str(stand_in), str(place))) from error
    return experiment


def open_experiment(
    recipe: Recipe, home: Path, *, compute: Compute = CPU, say: Say = print, progress: Progress | None = None
) -> Experiment:
    """Open the data and the vocabulary that a recipe names, and size the model to them."""
    family = family_named(recipe.model.family)
    kind = task_of(family.name, recipe.data.task)
    checkpoint = checkpoint_of(recipe, family)
    folder = data_folder(recipe.data.source, home, say, task=data_of(recipe.data.task))
    vocabulary = _vocabulary(recipe, folder, reads_text=kind.words != 0)
    learn = open_data(folder, recipe.data.task, recipe.data.train, family)
    learn = without_long_texts(learn, family, vocabulary, say)
    width = learn.pictures.feature_dim
    score = open_data(folder, recipe.data.task, (recipe.data.score,), family, width)
    check_apart(learn, score)
    check_labels(learn, score)
    for data, asked in ((learn, recipe.data.train), (score, (recipe.data.score,))):
        tell_stand_ins(data, asked, say)
        tell_unlisted(data, say)
    config = family.config(recipe.model.size, vocab_size=vocabulary.vocab_size, feature_dim=width)
    score_task = build_eval_task(kind, score, family, config, vocabulary)
    return Experiment(
        recipe=recipe,
        family=family,
        train_task=build_train_task(kind, learn, family, config, vocabulary, recipe.training.loss),
        score_task=score_task,
        blind=blind_of(folder, recipe.data.task, score_task),
        data=(learn.identity, score.identity),
        config=config,
        vocabulary="\n".join(vocabulary.tokens) + "\n",
        checkpoint=checkpoint,
        home=home,
        compute=compute,
        say=say,
        progress=progress,
        answers=_pretrained_answers(recipe, folder, checkpoint),
    )


def _pretrained_answers(recipe: Recipe, folder: Path, checkpoint: str | None) -> tuple[str, ...]:
    """Read the answers of the checkpoint's head, where the recipe starts from it.

    Raises:
        VlcompressError: a family, task or checkpoint without such a head, or no list of its answers.
    """
    if recipe.model.head == "fresh":
        return ()
    listed = family_named(recipe.model.family).answers_file
    if not listed or recipe.data.task not in ("vqa", "gqa") or checkpoint is None:
        able = " or ".join(name for name, family in FAMILIES.items() if family.answers_file)
        raise VlcompressError(
            f"model.head 'answers' takes the answer head of a pre-trained model: it needs {able}, vqa or gqa, and a "
            "checkpoint; use head 'fresh' otherwise"
        )
    return read_all_answers(folder / listed).labels


def _vocabulary(recipe: Recipe, folder: Path, *, reads_text: bool) -> WordPiece:
    """Read the vocabulary that the recipe names, or the data's; where no text is read, one without words will do."""
    if not reads_text and not recipe.data.vocabulary:
        return WordPiece(SPECIAL_TOKENS)
    return WordPiece.load(recipe.data.vocabulary or folder)


def checkpoint_of(recipe: Recipe, family: Family) -> str | None:
    """Resolve what the family is to load θ0 from; None for random weights.

    Raises:
        VlcompressError: no built-in weights of this family and size.
    """
    if recipe.model.checkpoint == "none":
        return None
    if recipe.model.checkpoint != "built-in":
        return recipe.model.checkpoint
    path = BUILT_IN / f"{family.name}-{recipe.model.size}-scenes.safetensors"
    if not path.is_file():
        have = ", ".join(sorted(one.stem for one in BUILT_IN.glob("*.safetensors"))) or "none"
        raise VlcompressError(
            f"there are no built-in weights for {family.name} {recipe.model.size} (there are: {have}): "
            "give --checkpoint a folder, a file or a hub name, or 'none' for random weights"
        )
    return str(path)


def newest_run(home: Path) -> Run:
    """Find the run that finished last.

    Raises:
        VlcompressError: there is none.
    """
    finished = sorted(home.glob(f"*/{DOCUMENT}"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise VlcompressError(f"there is no finished run in '{home}': run `vlcompress prune` first, or give a path")
    return Run(finished[-1].parent)


def _write_ticket(run: Run, experiment: Experiment, cells: list[Cell]) -> None:
    first = ticket_of(cells).trained[0]
    document, head = to_json(_result(experiment, cells)), experiment.train_task.head
    ticket = first.ticket(document, experiment.family.name, experiment.config, head, experiment.vocabulary)
    save_ticket(run.ticket, ticket, ticket_card(ticket, cells, experiment.compute))


def _result(experiment: Experiment, cells: list[Cell]) -> RunResult:
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

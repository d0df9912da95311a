"""Opening what a recipe names: its data, vocabulary and model, checked before anything is trained."""

import tempfile
from functools import lru_cache, partial
from pathlib import Path

import vlcompress
from vlcompress.data.pretraining import read_all_answers
from vlcompress.data.sources import data_folder, is_there, place_of, smallest
from vlcompress.data.tokenizer import SPECIAL_TOKENS, WordPiece
from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family
from vlcompress.models.encoder.zero_shot import check_nameable
from vlcompress.models.registry import FAMILIES, family_named
from vlcompress.recipe import Recipe
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
from vlcompress.tasks.support_matrix import read_blind
from vlcompress.tickets.checks import check_length, check_run, fit
from vlcompress.tickets.experiment import Experiment, Say, build_model, learn
from vlcompress.tickets.spec import Trial
from vlcompress.training.ranks import here
from vlcompress.training.watching import Watcher

BUILT_IN = Path(vlcompress.__file__).parent / "weights"


def checked_experiment(
    recipe: Recipe, home: Path, *, compute: Compute, say: Say = print, progress: Watcher | None = None
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
    fit(experiment)
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
        say: warned of what has no effect.

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
        fit(experiment)
    except VlcompressError as error:
        stand_in = place_of(small.data.source, scratch, task=task)
        raise VlcompressError(str(error).replace(str(stand_in), str(place))) from error
    return experiment


def open_experiment(
    recipe: Recipe, home: Path, *, compute: Compute = CPU, say: Say = print, progress: Watcher | None = None
) -> Experiment:
    """Open the data and the vocabulary that a recipe names, and size the model to them."""
    family = family_named(recipe.model.family)
    kind = task_of(family.name, recipe.data.task)
    checkpoint = checkpoint_of(recipe, family)
    folder = data_folder(recipe.data.source, home, say, task=data_of(recipe.data.task))
    vocabulary = _vocabulary(recipe, folder, family.words_of(checkpoint), reads_text=kind.words != 0)
    model = partial(family.config_of, recipe.model.size, checkpoint, recipe.data.task, vocabulary)
    family = family.of(model(0))  # what images it reads may be the checkpoint's to say
    learn = open_data(folder, recipe.data.task, recipe.data.train, family)
    learn = without_long_texts(learn, family, vocabulary, say)
    width = learn.pictures.feature_dim
    score = open_data(folder, recipe.data.task, (recipe.data.score,), family, width)
    check_apart(learn, score)
    check_labels(learn, score)
    for data, asked in ((learn, recipe.data.train), (score, (recipe.data.score,))):
        tell_stand_ins(data, asked, say)
        tell_unlisted(data, say)
    config = model(width)
    if recipe.model.head == "names":
        check_nameable(config, recipe.data.task, checkpoint)
    return Experiment(
        recipe=recipe,
        family=family,
        train_task=build_train_task(kind, learn, family, config, vocabulary, recipe.training.loss),
        score_task=build_eval_task(kind, score, family, config, vocabulary),
        reported=read_blind(folder, recipe.data.task),
        data=(learn.identity, score.identity),
        config=config,
        vocabulary=vocabulary.text,
        checkpoint=checkpoint,
        home=home,
        compute=compute,
        say=say,
        progress=progress,
        follow=follow,
        answers=_pretrained_answers(recipe, folder, checkpoint),
    )


def follow(recipe: Recipe, home: Path, compute: Compute, trial: Trial, identity: str) -> None:
    """Learn this device's share of a training that another process leads, and keep nothing.

    Args:
        recipe, home: of the experiment.
        compute: of the process that leads.
        trial: what sets the training apart.
        identity: hash of the training's spec there.

    Raises:
        VlcompressError: it is another training here.
    """
    experiment = _followed(recipe, home, here(compute))
    spec = experiment.spec(trial)
    if spec.sha256 != identity:
        raise VlcompressError(
            f"devices {compute.devices}: their processes read other data, or are not all of one kind: train on one "
            "device, or on devices of one kind"
        )
    learn(experiment, trial, spec, build_model(experiment, trial).to(experiment.compute.torch_device))


@lru_cache(maxsize=1)
def _followed(recipe: Recipe, home: Path, compute: Compute) -> Experiment:
    return open_experiment(recipe, home, compute=compute, say=lambda line: None)


def _pretrained_answers(recipe: Recipe, folder: Path, checkpoint: str | None) -> tuple[str, ...]:
    """Read the answers of the checkpoint's head, where the recipe starts from it.

    Raises:
        VlcompressError: a family, task or checkpoint without such a head, or no list of its answers.
    """
    if recipe.model.head != "answers":
        return ()
    listed = family_named(recipe.model.family).answers_file
    if not listed or recipe.data.task not in ("vqa", "gqa") or checkpoint is None:
        able = " or ".join(name for name, family in FAMILIES.items() if family.answers_file)
        raise VlcompressError(
            f"model.head 'answers' takes the answer head of a pre-trained model: it needs {able}, vqa or gqa, and a "
            "checkpoint; use head 'fresh' otherwise"
        )
    return read_all_answers(folder / listed).labels


def _vocabulary(recipe: Recipe, folder: Path, published: WordPiece | None, *, reads_text: bool) -> WordPiece:
    """Read the vocabulary that the recipe names, the checkpoint's or the data's; without text one without words."""
    if not reads_text and not recipe.data.vocabulary:
        return WordPiece(SPECIAL_TOKENS)
    if published is not None and not recipe.data.vocabulary:
        return published
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

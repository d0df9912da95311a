"""Opening a task's splits for a model: data in any published layout, and what reads it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlcompress.artefacts import identity
from vlcompress.data.answer_text import normalised
from vlcompress.data.detect_layout import STAND_INS, open_task
from vlcompress.data.examples import TaskData, text_of
from vlcompress.data.pretraining import open_pretraining
from vlcompress.data.questions import Answers, unlisted
from vlcompress.data.tokenizer import WordPiece
from vlcompress.data.vqa_v2 import soft_label
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Family
from vlcompress.tasks.answering import BEST_ANSWER, ClosedAnswers, best_answer_loss
from vlcompress.tasks.base import Task, TrainTask
from vlcompress.tasks.preprocessing import Preprocessor, max_words
from vlcompress.tasks.registry import TASKS, TaskKind

PIXELS_ONLY = 0
PRETRAINING = "pretraining"


def open_data(
    folder: Path, task: str, splits: Sequence[str], family: Family, feature_dim: int | None = None
) -> TaskData[Any]:
    """Open some splits with the kind of images that the family reads.

    Args:
        folder: the data folder, in a published layout.
        task: name of the task.
        splits: by their published names.
        family: of the model.
        feature_dim: the width of region features that is wanted; None takes the folder's.

    Raises:
        VlcompressError: no such data, or not with the images that the family reads.
    """
    width = PIXELS_ONLY if family.reads == "pixels" else feature_dim
    data = _opened(folder, task, splits, width)
    if family.normalises_answers:
        data = _normalised(data)
    if task == PRETRAINING and family.pretraining and family.pretraining.reads:
        data = _read_as(data, **family.pretraining.reads)
    if family.reads == "regions" and not data.pictures.feature_dim:
        raise VlcompressError(
            f"'{folder}' has pictures and no region features of {task} {', '.join(splits)}: {family.name} reads "
            "regions; extract them, or take a family that reads pixels"
        )
    return data


def _opened(folder: Path, task: str, splits: Sequence[str], width: int | None) -> TaskData[Any]:
    if task == PRETRAINING and all((folder / "lxmert" / f"{split}.json").is_file() for split in splits):
        return open_pretraining(folder, splits, feature_dim=width)
    return open_task(folder, data_of(task), splits, feature_dim=width)


def data_of(task: str) -> str:
    """Name the task whose data a task uses: its own, but for pre-training (captions, labelled pictures)."""
    return (TASKS[task].data if task in TASKS else "") or task


def _normalised(data: TaskData[Any]) -> TaskData[Any]:
    """Count the annotators' answers again, normalised, where the data has them; data that changes is other data."""
    known = Answers(data.labels)
    examples = tuple(
        replace(one, answers=soft_label(map(normalised, one.votes), known)) if getattr(one, "votes", ()) else one
        for one in data.examples
    )
    if examples == data.examples:
        return data
    return _read_as(replace(data, examples=examples), answers="normalised")


def _read_as(data: TaskData[Any], **how: Any) -> TaskData[Any]:
    """Mark data as other data: a family reads it in a way of its own, and what it learns depends on it."""
    return replace(data, identity=identity({"data": data.identity, **how}))


def without_long_texts(
    data: TaskData[Any], family: Family, vocabulary: WordPiece, say: Callable[[str], None]
) -> TaskData[Any]:
    """Leave out what the family's official code does not train on: long texts (`Family.longest_trained`).

    VCR's are not: an example is many texts there, and they are cut.
    """
    most = family.longest_trained - (data.task == "refcoco")  # officially "<" there, "<=" elsewhere
    texts = [text_of(example) for example in data.examples]
    if most <= 0 or None in texts:
        return data
    if data.encoded and data.encoded.vocabulary in ("", vocabulary.sha256):
        lengths = np.diff(data.encoded.starts).tolist()
    else:
        lengths = [len(vocabulary.pieces(str(text))) for text in texts]
    kept = [row for row, length in enumerate(lengths) if length <= most]
    if len(kept) == len(texts):
        return data
    say(f"{len(texts) - len(kept)} of {len(texts)} texts are longer than {most} word pieces: left out of training")
    encoded = data.encoded.keep(kept) if data.encoded else None
    return _read_as(replace(data, examples=tuple(data.examples[row] for row in kept), encoded=encoded), longest=most)


def tell_unlisted(data: TaskData[Any], say: Callable[[str], None]) -> None:
    """Say how many questions have only answers that the list does not know, if there are any."""
    count, total = unlisted(data.examples, data.labels), len(data.examples)
    if count:
        say(
            f"warning: {data.task} {', '.join(data.splits)}: {count} of {total} questions ({count / total:.0%}) have "
            f"no answer among the {len(data.labels)} listed, so that no answer to them is right"
        )


def tell_stand_ins(data: TaskData[Any], asked: Sequence[str], say: Callable[[str], None]) -> None:
    """Say which splits stand in for those that were asked for (`STAND_INS`), if there are any."""
    for name, opened in zip(asked, data.splits, strict=True):
        if opened in STAND_INS.get(data.task, {}).get(name, ()):
            say(f"{data.task}: there is no split '{name}' in these data, '{opened}' is taken for it")


def check_apart(learn: TaskData[Any], score: TaskData[Any]) -> None:
    """Refuse to score on a split that is trained on.

    Raises:
        VlcompressError: names the split.
    """
    if both := sorted({*learn.splits} & {*score.splits}):
        raise VlcompressError(f"split '{both[0]}' is trained on: score on another one (data.train, data.score)")


def check_labels(learn: TaskData[Any], score: TaskData[Any]) -> None:
    """Refuse splits whose answers are listed in different orders: one head cannot serve both.

    Raises:
        VlcompressError: the lists differ.
    """
    if learn.labels != score.labels:
        raise VlcompressError(
            f"{learn.task} has {len(learn.labels)} labels in {', '.join(learn.splits)} and {len(score.labels)} in "
            f"{', '.join(score.splits)}, or other ones: take splits that share one label list"
        )


def build_train_task(
    kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece, loss: str = "task"
) -> TrainTask:
    """Make the examples to train on; `loss` is one of a recipe's (`TrainingRecipe.loss`).

    Raises:
        VlcompressError: their answers are not published, the vocabulary does not know their words, a loss for tasks of
            another kind.
    """
    task = kind.learn(data, _preprocessor(kind, data, family, config, vocabulary))
    _check_labelled(task.hidden, data, "trained on")
    if loss == BEST_ANSWER:
        if not isinstance(task, ClosedAnswers):
            raise VlcompressError(f"training.loss '{loss}': {data.task} has no list of answers; give 'task'")
        task.criterion = best_answer_loss
    return task


def build_eval_task(kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece) -> Task:
    """Make the examples to score.

    Raises:
        VlcompressError: their answers are not published, or the vocabulary does not know their words.
    """
    task = build_task(kind, data, family, config, vocabulary)
    _check_labelled(task.hidden, data, "scored on")
    return task


def build_task(kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece) -> Task:
    """Make the examples to predict, whether their answers are published or not."""
    return kind.judge(data, _preprocessor(kind, data, family, config, vocabulary))


def _preprocessor(
    kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece
) -> Preprocessor:
    pictures = family.pictures(config, data.pictures)
    return Preprocessor(family, vocabulary, pictures, max_words(family, config, kind.words), data.encoded)


def _check_labelled(hidden: bool, data: TaskData[Any], what: str) -> None:
    if hidden:
        raise VlcompressError(
            f"the answers of {data.task} {', '.join(data.splits)} are not published: it cannot be {what}; choose "
            "another split, or `vlcompress predict` for the benchmark's server"
        )

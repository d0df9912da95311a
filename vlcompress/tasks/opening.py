"""Opening a task's splits for a model: data in any published layout, and what reads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlcompress.data.examples import TaskData
from vlcompress.data.opening import open_task
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Family
from vlcompress.tasks.base import Learned, Task
from vlcompress.tasks.reading import Reader, max_words
from vlcompress.tasks.registry import TaskKind

PIXELS_ONLY = 0


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
    data = open_task(folder, task, splits, feature_dim=PIXELS_ONLY if family.reads == "pixels" else feature_dim)
    if family.reads == "regions" and not data.pictures.feature_dim:
        raise VlcompressError(
            f"'{folder}' has pictures and no region features of {task} {', '.join(splits)}: {family.name} reads "
            "regions; extract them, or take a family that reads pixels (vilt)"
        )
    return data


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


def learned(kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece) -> Learned:
    """Make the examples to train on.

    Raises:
        VlcompressError: their answers are not published, or the vocabulary does not know their words.
    """
    task = kind.learn(data, _reader(kind, data, family, config, vocabulary))
    _check_labelled(task.hidden, data, "trained on")
    return task


def scored(kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece) -> Task:
    """Make the examples to score.

    Raises:
        VlcompressError: their answers are not published, or the vocabulary does not know their words.
    """
    task = predicted(kind, data, family, config, vocabulary)
    _check_labelled(task.hidden, data, "scored on")
    return task


def predicted(kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece) -> Task:
    """Make the examples to predict, whether their answers are published or not."""
    return kind.judge(data, _reader(kind, data, family, config, vocabulary))


def _reader(kind: TaskKind, data: TaskData[Any], family: Family, config: Config, vocabulary: WordPiece) -> Reader:
    return Reader(family, vocabulary, data.pictures, max_words(family, config, kind.words))


def _check_labelled(hidden: bool, data: TaskData[Any], what: str) -> None:
    if hidden:
        raise VlcompressError(
            f"the answers of {data.task} {', '.join(data.splits)} are not published: it cannot be {what}; choose "
            "another split, or `vlcompress predict` for the benchmark's server"
        )

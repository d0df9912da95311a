"""The tasks by name, and which cells (a family on a task) there are. A new task is a file here and an entry below."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlcompress.data.examples import TaskData
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.registry import families_of, family_named
from vlcompress.tasks import vcr
from vlcompress.tasks.base import Task, TrainTask
from vlcompress.tasks.classification import ClassificationTask, ClassificationTraining
from vlcompress.tasks.gqa import GqaTask
from vlcompress.tasks.moco import MocoTask
from vlcompress.tasks.nlvr2 import Nlvr2Task
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.pretraining_task import PretrainingTask
from vlcompress.tasks.refcoco import RefcocoTask, RefcocoTraining
from vlcompress.tasks.retrieval import RetrievalTask, RetrievalTraining
from vlcompress.tasks.simclr import SimclrTask
from vlcompress.tasks.snli_ve import SnliVeTask
from vlcompress.tasks.vqa import VqaTask


@dataclass(frozen=True)
class TaskKind:
    """What is known of a task before any data of it is opened.

    Attributes:
        title: its name among people.
        metric: name of the score.
        suffix: of the file that the benchmark wants.
        learn: makes the examples to train on.
        judge: makes the examples to score.
        words: longest text in word pieces, 0 where no text is read; None takes the family's.
    """

    title: str
    metric: str
    suffix: str
    learn: Callable[[TaskData[Any], Preprocessor], TrainTask]
    judge: Callable[[TaskData[Any], Preprocessor], Task]
    words: int | None = None


TASKS: dict[str, TaskKind] = {
    "vqa": TaskKind("VQA v2", VqaTask.metric, ".json", VqaTask, VqaTask),
    "gqa": TaskKind("GQA", GqaTask.metric, ".json", GqaTask, GqaTask),
    "nlvr2": TaskKind("NLVR2", Nlvr2Task.metric, ".csv", Nlvr2Task, Nlvr2Task),
    "snli_ve": TaskKind("SNLI-VE", SnliVeTask.metric, ".json", SnliVeTask, SnliVeTask),
    "vcr": TaskKind(
        "VCR",
        vcr.VcrTask.metric,
        ".csv",
        vcr.VcrTraining,
        vcr.VcrTask,
        words=vcr.MAX_WORDS,
    ),
    "refcoco": TaskKind("RefCOCO+", RefcocoTask.metric, ".json", RefcocoTraining, RefcocoTask),
    "retrieval": TaskKind(
        "image-text retrieval",
        RetrievalTask.metric,
        ".bin",
        RetrievalTraining,
        RetrievalTask,
    ),
    "classification": TaskKind(
        "image classification",
        ClassificationTask.metric,
        ".json",
        ClassificationTraining,
        ClassificationTask,
        words=0,
    ),
    "pretraining": TaskKind("pre-training", PretrainingTask.metric, "", PretrainingTask, PretrainingTask),
}

SELF_SUPERVISED: dict[str, TaskKind] = {
    name: TaskKind(title, one.metric, "", one, one, words=0)
    for name, title, one in (("simclr", "simCLR", SimclrTask), ("moco", "MoCo", MocoTask))
}
"""Pre-training on pictures of classification without their labels. They are run like tasks, but are no benchmarks."""


def task_of(family: str, task: str) -> TaskKind:
    """Look up a task of a family.

    Raises:
        VlcompressError: no such task, or not one of this family's.
    """
    every = {**TASKS, **SELF_SUPERVISED}
    if task not in every:
        raise unknown("task", task, every)
    if task not in family_named(family).tasks:
        own = ", ".join(family_named(family).tasks)
        raise VlcompressError(
            f"{family} has no {task} in its official code: it has {own}; {task} is there for "
            f"{', '.join(families_of(task))}"
        )
    return every[task]

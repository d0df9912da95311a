"""The tasks by name, and which cells (a family on a task) there are. A new task is a file here and an entry below."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from vlcompress.data import people
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
from vlcompress.tasks.sentences import SentencesTask
from vlcompress.tasks.simclr import SimclrTask
from vlcompress.tasks.snli_ve import SnliVeTask
from vlcompress.tasks.vqa import VqaTask


class ScoredTask(Protocol):
    """The class of a task that is scored."""

    metric: str

    def __call__(self, data: TaskData[Any], preprocessor: Preprocessor) -> Task:
        """Make the examples to score."""


@dataclass(frozen=True)
class TaskKind:
    """What is known of a task before any data of it is opened.

    Attributes:
        title: its name among people.
        suffix: of the file that the benchmark wants; "" where there is no benchmark.
        learn: makes the examples to train on.
        judge: makes the examples to score; its `metric` names the score.
        words: longest text in word pieces, 0 where no text is read; None takes the family's.
        data: the task whose data it is trained on, where that is another one.
        tabled: whether the table of families and tasks shows it.
    """

    title: str
    suffix: str
    learn: Callable[[TaskData[Any], Preprocessor], TrainTask]
    judge: ScoredTask
    words: int | None = None
    data: str = ""
    tabled: bool = True


TASKS: dict[str, TaskKind] = {
    "vqa": TaskKind("VQA v2", ".json", VqaTask, VqaTask),
    "gqa": TaskKind("GQA", ".json", GqaTask, GqaTask),
    "nlvr2": TaskKind("NLVR2", ".csv", Nlvr2Task, Nlvr2Task),
    "snli_ve": TaskKind("SNLI-VE", ".json", SnliVeTask, SnliVeTask),
    "vcr": TaskKind("VCR", ".csv", vcr.VcrTraining, vcr.VcrTask, words=people.LONGEST),
    "refcoco": TaskKind("RefCOCO+", ".json", RefcocoTraining, RefcocoTask),
    "retrieval": TaskKind("image-text retrieval", ".bin", RetrievalTraining, RetrievalTask),
    "classification": TaskKind("image classification", ".json", ClassificationTraining, ClassificationTask, words=0),
    "sentences": TaskKind("sentence classification", ".json", SentencesTask, SentencesTask),
    # Takes LXMERT's sentence files where a folder has them, and else the captions of retrieval.
    "pretraining": TaskKind("pre-training", "", PretrainingTask, PretrainingTask, data="retrieval"),
    # Pre-training on pictures of classification without their labels.
    "simclr": TaskKind("simCLR", "", SimclrTask, SimclrTask, words=0, data="classification", tabled=False),
    "moco": TaskKind("MoCo", "", MocoTask, MocoTask, words=0, data="classification", tabled=False),
}


def tabled() -> dict[str, TaskKind]:
    """Select the tasks that the table of families and tasks shows."""
    return {name: kind for name, kind in TASKS.items() if kind.tabled}


def task_of(family: str, task: str) -> TaskKind:
    """Look up a task of a family.

    Raises:
        VlcompressError: no such task, or not one of this family's.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task not in family_named(family).tasks:
        own = ", ".join(family_named(family).tasks)
        raise VlcompressError(
            f"{family} has no task {task}: it has {own}; {task} is there for {', '.join(families_of(task))}"
        )
    return TASKS[task]

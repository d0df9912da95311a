"""Who does the trainings of a run or a study: this process, one after another, or a cluster's (`tickets.ray_engine`).

Which trainings there are is not known beforehand (a round's mask comes from the round before), so there is no plan to
hand over: whoever needs a training asks for it, and says what may be asked for at the same time.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from vlcompress.tickets.spec import Trial

if TYPE_CHECKING:
    from vlcompress.tickets.experiment import Experiment
    from vlcompress.tickets.store import TrainingResult

T = TypeVar("T")


class Engine(Protocol):
    """Does trainings that are not there yet."""

    @property
    def shared(self) -> str:
        """Where finished trainings are copied to and from, for machines without a shared disk; "" is nowhere."""

    def train(self, experiment: "Experiment", trial: Trial, label: str) -> "TrainingResult":
        """Do a training."""

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Do jobs that need nothing of each other, and give their results in this order; one computes at a time."""

    def quiet(self) -> AbstractContextManager[None]:
        """Wait for the trainings under way and start none, for what is measured by the clock."""


@dataclass(frozen=True)
class Local:
    """Does everything in this process, in turn."""

    shared: str = ""

    def train(self, experiment: "Experiment", trial: Trial, label: str) -> "TrainingResult":
        """See `Engine`."""
        return experiment.train_here(trial, label)

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """See `Engine`."""
        return [job() for job in jobs]

    def quiet(self) -> AbstractContextManager[None]:
        """See `Engine`."""
        return nullcontext()


def columns(engine: Engine, made: Iterable[Callable[[], Iterable[T]]]) -> list[list[T]]:
    """Have the rows of several columns made, which need nothing of each other."""
    return engine.together([partial(_listed, one) for one in made])


def _listed(made: Callable[[], Iterable[T]]) -> list[T]:
    return list(made())

"""What a study is: cells that are run one by one and shown together.

A cell is a piece of work over experiments; it costs some trainings, and trainings are content-addressed, so that
studies share what hashes equal and an interrupted one continues. A cell that fails is shown with its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe
from vlcompress.report.plots import Chart
from vlcompress.report.table import Table
from vlcompress.tickets.engine import Engine, Local
from vlcompress.tickets.experiment import Experiment, Say
from vlcompress.tickets.open_experiment import checked_experiment
from vlcompress.training.watching import Watcher

Json = dict[str, Any]


@dataclass
class StudyRunner:
    """Where cells are run: experiments are opened once for each recipe.

    Attributes:
        home: folder of runs, trainings and built-in data.
        compute: where to train, and in what.
        say: called with one line at each step of the work.
        progress: watches every training.
        engine: who does trainings that are not there yet.
    """

    home: Path
    compute: Compute = CPU
    say: Say = print
    progress: Watcher | None = None
    engine: Engine = field(default_factory=Local)
    _open: dict[str, Experiment] = field(default_factory=dict, init=False)

    def bench(self, recipe: Recipe) -> Experiment:
        """Open what a recipe names; patterns and schedule are checked before anything is trained.

        Raises:
            VlcompressError: anything in the recipe or the data that does not fit.
        """
        name = recipe.sha256()
        if name not in self._open:
            self._open[name] = checked_experiment(
                recipe, self.home, compute=self.compute, say=self.say, progress=self.progress
            )
            self._open[name].engine = self.engine
        return self._open[name]


@dataclass(frozen=True)
class StudyCell:
    """A piece of a study that succeeds or fails by itself.

    Attributes:
        name: unique in the study ("vqa", "block:16x16 seed 1").
        recipe: what is trained (for the estimate and for the record).
        trainings: how many trainings it takes where nothing is there yet.
        scored: how many of them are kept as scores and masks alone (`vlcompress.tickets.spec.Trial`).
        work: does it and gives what was found, a dataclass that `to_json` writes (`studies.curves.Curve`).
    """

    name: str
    recipe: Recipe
    trainings: int
    work: Callable[[StudyRunner], Any]
    scored: int = 0


@dataclass(frozen=True)
class StudyReport:
    """How a study's results are shown.

    Attributes:
        findings: sentences, each with its figures; what does not hold is reported as plainly as what does.
        tables, charts: of our own results.
        published: ids of the papers' tables to put beside them.
        claims: what a paper says without a table, each with where it says so.
        summary: the findings in a line or two, for where there is no room; "" takes the first findings.
    """

    findings: tuple[str, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()
    published: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Choices:
    """What a user may choose about a study; None keeps the study's own default.

    Attributes:
        family, tasks, size: which cells ("" and () for the default).
        source: "scenes:SIZE" or a folder.
        seeds: of every training.
        levels: sparsities, fractions in (0, 1).
        criterion: what tickets are ranked by.
    """

    family: str = "lxmert"
    tasks: tuple[str, ...] = ("vqa",)
    size: str = "small"
    source: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    levels: tuple[float, ...] = ()
    criterion: str = "magnitude"


def by_magnitude(study: str, choices: Choices) -> None:
    """Refuse another criterion, for a study that repeats what a paper did with magnitudes.

    Raises:
        VlcompressError: another criterion was chosen.
    """
    if choices.criterion != Choices.criterion:
        raise VlcompressError(
            f"study '{study}' by criterion '{choices.criterion}': the paper ranks by magnitude; leave --criterion out"
        )


class Study(Protocol):
    """One study: a file of this package."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def title(self) -> str:
        """What is asked, in a line, with the paper's table or figure."""

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan the cells to run.

        Raises:
            VlcompressError: an impossible cell; the message says which exist.
        """

    def report(self, results: Mapping[str, Any]) -> StudyReport:
        """Make tables, charts and findings of the results of the cells that succeeded, by cell name."""


@dataclass(frozen=True)
class Done:
    """A study's outcome.

    Attributes:
        results: of each cell that succeeded.
        failed: the reason of each that did not.
        seconds: wall time of each cell, this time.
    """

    results: Mapping[str, Any]
    failed: Mapping[str, str]
    seconds: Mapping[str, float]

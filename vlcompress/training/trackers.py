"""Experiment trackers: each training becomes a run of TensorBoard, Weights & Biases, Trackio or MLflow.

Their packages are no dependency of ours: a tracker that is named needs its own, and nothing else imports it.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlcompress.artefacts import disk_errors
from vlcompress.errors import VlcompressError, unknown
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.watching import Entry

PROJECT = "vlcompress"


class _Tracker:
    """A watcher whose run is opened, fed and closed by a subclass.

    Args:
        module: the tracker's package.
        folder: where it may write what it keeps on this machine.
    """

    def __init__(self, module: Any, folder: Path) -> None:
        self.module, self.folder = module, folder

    def plan(self, trainings: int) -> None:
        """See `vlcompress.training.watching.Watcher`: trackers know no plan."""

    def begin(self, label: str, hyper: Hyperparameters) -> None:
        """Open a run."""
        raise NotImplementedError

    def step(self, entry: Entry) -> None:
        """Log a step."""
        self.log({name: value for name, value in asdict(entry).items() if name != "step"}, entry.step)

    def log(self, values: dict[str, float], step: int) -> None:
        """Log values of a step."""
        raise NotImplementedError

    def end(self) -> None:
        """Close the run."""
        raise NotImplementedError


class _TensorBoard(_Tracker):
    """Event files, a folder a training."""

    def begin(self, label: str, hyper: Hyperparameters) -> None:
        """See `_Tracker`."""
        name = re.sub(r"[^\w.=-]+", "-", label).strip("-")
        self._writer = self.module.SummaryWriter(str(self.folder / name))

    def log(self, values: dict[str, float], step: int) -> None:
        """See `_Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self) -> None:
        """See `_Tracker`."""
        self._writer.close()


class _Wandb(_Tracker):
    """Weights & Biases, and Trackio, which has its interface."""

    def begin(self, label: str, hyper: Hyperparameters) -> None:
        """See `_Tracker`."""
        where = {"dir": str(self.folder)} if self.module.__name__ == "wandb" else {}
        self.module.init(project=PROJECT, name=label, config=asdict(hyper), **where)

    def log(self, values: dict[str, float], step: int) -> None:
        """See `_Tracker`."""
        self.module.log(values, step=step)

    def end(self) -> None:
        """See `_Tracker`."""
        self.module.finish()


class _MLflow(_Tracker):
    """MLflow, at the address that its own settings name."""

    def begin(self, label: str, hyper: Hyperparameters) -> None:
        """See `_Tracker`."""
        self.module.set_experiment(PROJECT)
        self.module.start_run(run_name=label)
        self.module.log_params(asdict(hyper))

    def log(self, values: dict[str, float], step: int) -> None:
        """See `_Tracker`."""
        self.module.log_metrics(values, step=step)

    def end(self) -> None:
        """See `_Tracker`."""
        self.module.end_run()


TRACKERS: dict[str, tuple[str, str, Callable[[Any, Path], _Tracker]]] = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard", _TensorBoard),
    "wandb": ("wandb", "wandb", _Wandb),
    "trackio": ("trackio", "trackio", _Wandb),
    "mlflow": ("mlflow", "mlflow", _MLflow),
}
"""The module of each tracker, the package that brings it, and what speaks to it."""


def check_tracker(name: str) -> None:
    """Check the name of a tracker.

    Raises:
        VlcompressError: not one of `TRACKERS`.
    """
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)


def tracker_named(name: str, home: Path) -> _Tracker:
    """Import a tracker; what it keeps on this machine goes to ``home/tracked``.

    Raises:
        VlcompressError: no such tracker, or its package is not installed.
    """
    check_tracker(name)
    module, package, kind = TRACKERS[name]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise VlcompressError(
            f"--track {name} needs the package {package} ({error}): pip install {package}, or leave --track out"
        ) from error
    folder = home / "tracked"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return kind(found, folder)

"""Trainings as tasks of a Ray cluster; what runs where, when, and again after a crash is Ray's.

A task is named by the hash of its training, and its result is the folder of that hash: a task that is done again goes
on from its checkpoint or finds its result, and gives the same bytes. Here are only threads that ask and wait, one for
each thing that may be asked for at the same time. They hold a baton while they compute (prune a mask, compare scores)
and hand it on while they wait, so everything but the trainings is as in one thread.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from vlcompress.clusters import ADDRESS, guard, import_ray, join, start_local
from vlcompress.devices import Compute
from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe
from vlcompress.tickets.engine import Local
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.store import TrainingResult
from vlcompress.training.trackers import tracker_named

T = TypeVar("T")

RETRIES = 10
"""How often a training is done again whose worker was lost; machines may go more than once, but one that kills its
worker each time has to end."""


@dataclass(frozen=True)
class Job:
    """What a worker is told.

    Attributes:
        recipe, home, compute: to open the experiment by.
        trial, label: what to train, and how to call it.
        asked: hash of the training, as the asking process has it.
        threads: of PyTorch, which decide the last bits on a CPU.
        folder: that paths in the recipe start from.
        shared, tracker: see `RayEngine`.
    """

    recipe: Recipe
    home: Path
    compute: Compute
    trial: Trial
    label: str
    asked: str
    threads: int
    folder: Path
    shared: str
    tracker: str | None


def work(job: Job) -> None:
    """Do a training in a worker; it lies in the store afterwards.

    Raises:
        VlcompressError: what the worker's paths hold is not what the asking process has there.
    """
    if job.folder.is_dir():
        os.chdir(job.folder)
    torch.set_num_threads(job.threads)
    experiment = _opened(job.recipe, job.home, job.compute)
    experiment.engine = Local(job.shared)
    experiment.progress = tracker_named(job.tracker, job.home) if job.tracker else None
    if experiment.spec(job.trial).sha256 != job.asked:
        raise VlcompressError(
            f"{job.label}: the data, the checkpoint or the GPU of worker {os.uname().nodename} is not that of the "
            "process that asks: give all machines the same files under the same paths, and the same kind of GPU"
        )
    experiment.train(job.trial, job.label)


@lru_cache(maxsize=2)
def _opened(recipe: Recipe, home: Path, compute: Compute) -> Experiment:
    return open_experiment(recipe, home, compute=compute, say=lambda line: None)


class RayEngine:
    """Asks a Ray cluster for trainings: that of RAY_ADDRESS, or one that is started on this machine.

    Args:
        shared: see `vlcompress.tickets.engine.Engine`.
        tracker: that each worker logs to.
        ray: the module; None imports it.

    Raises:
        VlcompressError: Ray is not installed.
    """

    def __init__(self, shared: str = "", tracker: str | None = None, ray: Any = None) -> None:
        self.shared, self._tracker = shared, tracker
        if ADDRESS not in os.environ:
            guard()
        self._ray = ray or import_ray("ray", "Ray")
        self._running: dict[str, Any] = {}
        self._stopped = False
        self._baton = threading.Lock()
        self._baton.acquire()

    def train(self, experiment: Experiment, trial: Trial, label: str) -> TrainingResult:
        """Wait for a training that is under way, or have it done.

        Raises:
            VlcompressError: as the training itself; its worker was lost too often; the result is not in the store.
        """
        if self._stopped:
            raise VlcompressError(f"{label}: not begun")
        spec = experiment.spec(trial)
        mine = spec.sha256 not in self._running
        if mine:
            self._running[spec.sha256] = self._submit(experiment, trial, label, spec.sha256)
        task = self._running[spec.sha256]
        try:
            with self._waiting():
                self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            raise _told(label, error) from error
        finally:
            if self._running.get(spec.sha256) is task:
                del self._running[spec.sha256]
        found = experiment.store.find(spec, scored=trial.scored)
        if found is None and not mine:  # whoever asked for it wanted its scores alone
            return self.train(experiment, trial, label)
        if found is None:
            raise VlcompressError(
                f"{label}: trained, but not in '{experiment.store.folder}': have all machines share --home, or give "
                "--share a place that they all reach"
            )
        return found

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Have each job ask and wait in a thread of its own; what fails is raised once the others have ended."""

        def run(job: Callable[[], T]) -> T:
            with self._baton:
                return job()

        if len(jobs) < 2:
            return [job() for job in jobs]
        self._connect()  # in the main thread, where Ray can set its signal handlers
        with self._waiting(), ThreadPoolExecutor(len(jobs)) as pool:
            try:
                return list(pool.map(run, jobs))
            except KeyboardInterrupt:  # the threads wait for tasks: end those
                self._stopped = True
                for task in list(self._running.values()):
                    self._ray.cancel(task, force=True)
                raise

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hold the baton until nothing is under way, and through the block."""
        tasks = list(self._running.values())
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks))
        yield

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Let other threads compute."""
        self._baton.release()
        try:
            yield
        finally:
            self._baton.acquire()

    def _connect(self) -> None:
        if not self._ray.is_initialized():
            join(self._ray) if ADDRESS in os.environ else start_local(self._ray)

    def _submit(self, experiment: Experiment, trial: Trial, label: str, asked: str) -> Any:
        self._connect()
        compute, threads = experiment.compute, torch.get_num_threads()
        job = Job(
            recipe=experiment.recipe,
            home=experiment.home.resolve(),
            compute=replace(compute, device="cuda") if compute.on_gpu else compute,  # Ray shows a task its GPU alone
            trial=trial,
            label=label,
            asked=asked,
            threads=threads,
            folder=Path.cwd(),
            shared=self.shared,
            tracker=self._tracker,
        )
        needs = {"num_cpus": threads, "num_gpus": int(compute.on_gpu)}
        self._warn(experiment, needs)
        return self._ray.remote(work).options(name=label, max_retries=RETRIES, **needs).remote(job)

    def _warn(self, experiment: Experiment, needs: dict[str, int]) -> None:
        """Say so if no machine of the cluster can take the task, which Ray waits for in silence."""
        have = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(one.get("CPU", 0) >= needs["num_cpus"] and one.get("GPU", 0) >= needs["num_gpus"] for one in have):
            spelt = f"{needs['num_cpus']} CPU(s) and {needs['num_gpus']} GPU(s)"
            experiment.say(f"warning: no machine of the Ray cluster has {spelt}: trainings wait until one joins")


def _told(label: str, error: Any) -> Exception:
    """Say what became of a task: its own error, or a loss that Ray could not mend."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, VlcompressError):
        return cause
    if cause is not None:
        return Exception(str(error))
    kind = type(error).__name__
    return VlcompressError(
        f"{label}: Ray could not have it done ({kind}, after {RETRIES} more tries): look at memory and disk of the "
        "machines; the same command goes on where it stopped"
    )

"""Trainings on a Ray cluster: the same bytes as here, each hash once, and a killed worker's training done again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlcompress.artefacts import file_sha256
from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe
from vlcompress.tickets.engine import Local, columns
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.ray_engine import Job, RayEngine, work
from vlcompress.tickets.run import find_ticket
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.store import LOG, TIME


class RayError(Exception):
    """Stands for Ray's errors; `cause` is the task's own."""

    def __init__(self, cause: Exception | None = None) -> None:
        self.cause = cause


class StandIn:
    """As much of Ray as the engine needs: a task is a thread, one at a time (torch's settings are the process's)."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.resources: list[dict[str, Any]] = []
        self._pool = ThreadPoolExecutor(1)

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 64}}]

    def remote(self, do: Callable[[Job], None]) -> Any:
        def submit(job: Job) -> Future[None]:
            self.labels.append(job.label)
            return self._pool.submit(do, job)

        def options(**named: Any) -> Any:
            self.resources.append(named)
            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)

    def get(self, task: Future[None]) -> None:
        try:
            task.result()
        except VlcompressError as error:
            raise RayError(error) from error


def written(home: Path) -> dict[str, str]:
    """Hash all that trainings and runs leave, but for how long they took."""
    files = [path for path in home.rglob("*") if path.is_file() and path.name not in (TIME, LOG)]
    return {str(path.relative_to(home)): file_sha256(path) for path in files if "data" not in path.parts}


def test_a_run_has_the_same_bytes_and_each_training_is_asked_for_once(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.override(pruning={"seeds": [0, 1], "controls": ["random"], "schedule": "oneshot"})
    ray = StandIn()
    find_ticket(recipe, tmp_path / "here", say=[].append)
    find_ticket(recipe, tmp_path / "there", say=[].append, engine=RayEngine(ray=ray))
    assert written(tmp_path / "there") == written(tmp_path / "here")
    assert len(ray.labels) == len(set(ray.labels)) == 6
    assert all(one["num_gpus"] == 0 and one["num_cpus"] >= 1 and one["max_retries"] > 0 for one in ray.resources)


def test_equal_trainings_under_way_are_one_task(recipe: Recipe, tmp_path: Path) -> None:
    ray = StandIn()
    experiment = open_experiment(recipe, tmp_path, say=[].append)
    experiment.engine = RayEngine(ray=ray)
    found = experiment.engine.together([partial(experiment.train, Trial(0), "dense")] * 3)
    assert len({one.folder for one in found}) == 1
    assert ray.labels == ["dense"]


def test_who_wants_the_weights_of_a_training_under_way_for_its_scores_has_it_done_again(
    recipe: Recipe, tmp_path: Path
) -> None:
    ray = StandIn()
    experiment = open_experiment(recipe, tmp_path, say=[].append)
    experiment.engine = RayEngine(ray=ray)
    trials = [Trial(0, scored=True), Trial(0), Trial(0)]
    light, *whole = experiment.engine.together([partial(experiment.train, one, "dense") for one in trials])
    assert whole[0].weights().keys() == whole[1].weights().keys()
    assert light.folder == whole[0].folder
    assert ray.labels == ["dense", "dense"]


def test_one_job_computes_at_a_time_and_results_keep_their_order() -> None:
    engine, inside, most = RayEngine(ray=StandIn()), 0, 0

    def job(number: int) -> Iterator[int]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        yield number

    expected = [[number] for number in range(5)]
    assert columns(engine, [partial(job, number) for number in range(5)]) == expected
    assert most == 1
    assert columns(Local(), [partial(job, number) for number in range(5)]) == expected


def test_what_fails_is_told_as_it_is_and_does_not_stop_the_others(recipe: Recipe, tmp_path: Path) -> None:
    experiment = open_experiment(recipe, tmp_path, say=[].append)
    experiment.engine = RayEngine(ray=StandIn())
    broken = open_experiment(recipe.override(training={"learning_rate": 1e30}), tmp_path, say=[].append)
    broken.engine = experiment.engine
    with pytest.raises(VlcompressError, match="loss"):
        experiment.engine.together(
            [partial(broken.train, Trial(0), "broken"), partial(experiment.train, Trial(0), "whole")]
        )
    assert experiment.store.find(experiment.spec(Trial(0))) is not None


def test_a_worker_that_reads_other_data_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    experiment = open_experiment(recipe, tmp_path, say=[].append)
    job = Job(recipe, tmp_path, experiment.compute, Trial(0), "dense", "0" * 64, 1, Path.cwd(), "", None)
    with pytest.raises(VlcompressError, match="is not that of the process that asks: give all machines the same"):
        work(job)


def test_a_result_that_is_not_in_the_store_names_what_is_missing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = open_experiment(recipe, tmp_path, say=[].append)
    experiment.engine = RayEngine(ray=StandIn())
    monkeypatch.setattr("vlcompress.tickets.ray_engine.work", lambda job: None)
    with pytest.raises(VlcompressError, match="have all machines share --home, or give --share a place"):
        experiment.train(Trial(0), "dense")


def test_a_shared_place_gives_another_home_what_is_done(recipe: Recipe, tmp_path: Path) -> None:
    shared, said = f"file://{tmp_path / 'shared'}", []
    for home in ("one", "two"):
        experiment = open_experiment(recipe, tmp_path / home, say=said.append)
        experiment.engine = Local(shared)
        experiment.train(Trial(0), "dense")
    assert said[-1].endswith("(done before)")
    assert written(tmp_path / "one") == written(tmp_path / "two")


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed: nothing is missing")
def test_without_ray_the_extra_is_named() -> None:
    with pytest.raises(VlcompressError, match=r"Ray is not installed: pip install 'vlcompress\[ray\]'"):
        RayEngine()


@pytest.mark.nightly
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'vlcompress[ray]'")
@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_changes_no_byte(tmp_path: Path) -> None:
    command = ["prune", "--size", "tiny", "--seeds", "0,1", "--sparsity", "0.3", "--steps", "60"]
    homes = {engine: tmp_path / engine for engine in ("local", "ray")}
    started = {
        engine: subprocess.Popen(
            [sys.executable, "-m", "vlcompress", *command, "--engine", engine, "--home", str(home)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for engine, home in homes.items()
    }
    victim = _worker_under(started["ray"].pid)
    os.kill(victim, signal.SIGKILL)
    assert {engine: process.wait() for engine, process in started.items()} == {"local": 0, "ray": 0}
    assert written(homes["ray"]) == written(homes["local"])


@pytest.mark.nightly
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'vlcompress[ray]'")
@pytest.mark.timeout(600)
def test_a_head_that_is_lost_loses_nothing_that_is_finished(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    safe = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    start = f"start --head --block --node-ip-address=127.0.0.1 --port={port} --num-cpus=1 --include-dashboard=false"
    head = subprocess.Popen([sys.executable, "-m", "ray.scripts.scripts", *start.split()], env=safe)
    command = [sys.executable, "-m", "vlcompress", "study", "tickets", "--size", "tiny", "--task", "vqa"]
    command += ["--seeds", "0,1", "--levels", "0.2", "--home", str(tmp_path / "ray")]
    cluster = {**safe, "RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    asking = subprocess.Popen([*command, "--engine", "ray"], env=cluster)
    finished = _some_finished(tmp_path / "ray" / "trainings", asking)
    for process in [*_descendants(head.pid), head.pid]:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert asking.wait(timeout=200) != 0
    again = subprocess.run(command, env=safe, capture_output=True, text=True, check=True)
    assert again.stderr.count("(done before)") >= len(finished)
    subprocess.run([*command[:-1], str(tmp_path / "local")], env=safe, check=True)
    assert written(tmp_path / "ray" / "trainings") == written(tmp_path / "local" / "trainings")


def _some_finished(trainings: Path, asking: "subprocess.Popen[bytes]") -> list[Path]:
    """Wait until some trainings are done and some are not."""
    while len(found := list(trainings.glob("*/training.json"))) < 2:
        assert asking.poll() is None
        time.sleep(0.05)
    return found


def _descendants(process: int) -> list[int]:
    children = [int(word) for word in _read(Path(f"/proc/{process}/task/{process}/children")).split() if word.isdigit()]
    return [*(one for child in children for one in _descendants(child)), *children]


def _worker_under(driver: int) -> int:
    """Wait until a worker of a driver's Ray trains, and find its process."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            title = _read(folder / "cmdline")
            if title.startswith("ray::seed") and driver in _ancestors(int(folder.name)):
                return int(folder.name)
        threading.Event().wait(0.05)
    raise AssertionError("no worker began to train")


def _ancestors(process: int) -> Iterator[int]:
    while process > 1:
        process = int(_read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()[1] or 0)
        yield process


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ") - 0"

"""Trainings a minute of one and of two workers, on a Ray cluster and in plain processes, one thread each.

    python -m bench.two_workers [--rounds 2] [--steps 60] [--out bench/results/training/two_workers.json]

The same run, dense and one round of two seeds at size small, is made anew in turn by a Ray cluster of one CPU and of
two (started beforehand, its workers warm, nothing else on it), and by one process and two without Ray, which is as much
as the machine's two cores give: they share caches and memory. Before any figure is told, all have to have written the
same bytes.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.records import write_record
from vlcompress.artefacts import file_sha256
from vlcompress.clusters import guard
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.tickets.ray_engine import RayEngine
from vlcompress.tickets.run import find_ticket

SEEDS = (0, 1)
TRAININGS = 2 * len(SEEDS)


def recipe_of(steps: int, seeds: tuple[int, ...] = SEEDS) -> Recipe:
    """Make the run: dense and one round for each seed."""
    pruning = {"seeds": list(seeds), "controls": [], "schedule": "oneshot", "criterion": "gradient", "target": ""}
    return default_recipe("lxmert", "vqa", "small").override(pruning=pruning, training={"steps": steps})


def ray_seconds(workers: int, recipe: Recipe, home: Path) -> float:
    """Time the run on a cluster of so many CPUs, whose workers have done a training before."""
    import ray

    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        find_ticket(recipe_of(1), home, say=_silent, engine=RayEngine(ray=ray))
        return _timed(lambda: find_ticket(recipe, home, say=_silent, engine=RayEngine(ray=ray)))
    finally:
        ray.shutdown()


def process_seconds(workers: int, recipe: Recipe, home: Path) -> float:
    """Time the run's seeds in so many processes, each with its share of them, from when all are ready."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(workers + 1)
    steps, shares = recipe.training.steps, [SEEDS[first::workers] for first in range(workers)]
    started = [spawn.Process(target=_share, args=(steps, share, home, ready)) for share in shares]
    for process in started:
        process.start()
    ready.wait()
    return _timed(lambda: [process.join() for process in started])


def _share(steps: int, seeds: tuple[int, ...], home: Path, ready: Any) -> None:
    torch.set_num_threads(1)
    find_ticket(recipe_of(1, seeds), home, say=_silent)
    ready.wait()
    find_ticket(recipe_of(steps, seeds), home, say=_silent)


def _timed(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _silent(line: str) -> None:
    """Say nothing."""


def written(home: Path, steps: int) -> dict[str, str]:
    """Hash the weights of the trainings of so many steps."""
    done = (path.parent for path in home.glob("trainings/*/training.json") if f'"steps": {steps},' in path.read_text())
    return {folder.name: file_sha256(folder / "weights.safetensors") for folder in done}


ARMS: dict[str, Callable[[Recipe, Path], float]] = {
    "ray 1": lambda recipe, home: ray_seconds(1, recipe, home),
    "ray 2": lambda recipe, home: ray_seconds(2, recipe, home),
    "processes 1": lambda recipe, home: process_seconds(1, recipe, home),
    "processes 2": lambda recipe, home: process_seconds(2, recipe, home),
}


def measure(rounds: int, steps: int, scratch: Path) -> dict[str, Any]:
    """Time every arm once a round, each in a home of its own with the built-in data of the first.

    Raises:
        SystemExit: two arms wrote other weights.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    data, wrote = scratch / "data", []
    for number in range(rounds):
        for name, arm in ARMS.items():
            home = scratch / f"{name}-{number}"
            home.mkdir()
            data.mkdir(exist_ok=True)
            (home / "data").symlink_to(data)
            seconds[name].append(round(arm(recipe_of(steps), home), 2))
            print(name, seconds[name][-1], flush=True)
            wrote.append(written(home, steps))
    if any(one != wrote[0] or len(one) != TRAININGS for one in wrote):
        raise SystemExit("the arms did not write the same weights")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    gains = {kind: round(medians[f"{kind} 1"] / medians[f"{kind} 2"], 3) for kind in ("ray", "processes")}
    return {
        "trainings": TRAININGS,
        "steps": steps,
        "seconds": seconds,
        "trainings_a_minute": {name: round(60 * TRAININGS / value, 2) for name, value in medians.items()},
        "two_over_one": gains,
        "share_of_twice": {kind: round(gain / 2, 3) for kind, gain in gains.items()},
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which are started from here
    guard()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(chosen.rounds, chosen.steps, Path(scratch))
    write_record(f"python -m bench.two_workers --rounds {chosen.rounds} --steps {chosen.steps}", found, chosen.out)


if __name__ == "__main__":
    main()

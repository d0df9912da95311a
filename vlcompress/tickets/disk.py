"""What trainings take on the disk: how much a run will write, and what nothing refers to any more."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlcompress.artefacts import read_json
from vlcompress.tickets.experiment import Experiment

FLOAT = 4
"""Bytes of a number: weights and their optimizer's state are float32."""
MOMENTS = {"sgd": 1}
"""Numbers beside each weight in a checkpoint, where an optimizer has another count than Adam's 2."""
YOUNG = 3600.0
"""Seconds: what was changed since then may belong to a run that is at work."""


class Asked(NamedTuple):
    """Trainings that are to be done.

    Attributes:
        experiment: of them.
        trainings: how many, at most.
        scored: how many of them are kept as scores and masks alone.
    """

    experiment: Experiment
    trainings: int
    scored: int = 0

    @property
    def bytes(self) -> int:
        """What they leave on the disk."""
        masks = self.scored * (_prunable(self.experiment) // 8)
        return (self.trainings - self.scored) * bytes_of_a_training(self.experiment) + masks


def tell_size(asked: Sequence[Asked]) -> int:
    """Say how much so many trainings of each experiment write at most, and warn where the disk has less.

    Returns:
        the bytes.
    """
    each = {spelt(bytes_of_a_training(one.experiment)) for one in asked}
    needed = sum(one.bytes for one in asked) + max(bytes_under_way(one.experiment) for one in asked)
    home, say = asked[0].experiment.home, asked[0].experiment.say
    free = shutil.disk_usage(next(one for one in (home, *home.resolve().parents) if one.is_dir())).free
    one = f"{each.pop()} a training, " if len(each) == 1 else ""
    count, scored = sum(one.trainings for one in asked), sum(one.scored for one in asked)
    alone = f" ({scored} of them scores and masks alone)" if scored else ""
    say(f"on the disk: {one}{spelt(needed)} for {count}{alone} at most with one under way; {spelt(free)} are free")
    if needed > free:
        say("warning: that is more than is free: free some space, or choose another --home")
    return needed


def bytes_of_a_training(experiment: Experiment) -> int:
    """Count weights, one bit of mask for each prunable one, and the sums that the criterion keeps."""
    prunable = _prunable(experiment)
    sums = FLOAT * prunable if experiment.recipe.pruning.criterion.saliency else 0
    return FLOAT * _weights(experiment) + prunable // 8 + sums


def bytes_under_way(experiment: Experiment) -> int:
    """Count a checkpoint, twice while it is replaced, and the weights to rewind to."""
    prunable = _prunable(experiment)
    numbers = _weights(experiment) * (1 + MOMENTS.get(experiment.hyper.optimizer, 2))
    numbers += prunable if experiment.recipe.pruning.criterion.saliency else 0
    seeds = len(experiment.recipe.pruning.seeds) * bool(experiment.recipe.pruning.rewind_step)
    return FLOAT * (2 * numbers + seeds * _weights(experiment))


def _prunable(experiment: Experiment) -> int:
    return sum(experiment.shapes[name].numel() for name in experiment.prunable.names)


def _weights(experiment: Experiment) -> int:
    return sum(shape.numel() for shape in experiment.shapes.values())


def spelt(count: float) -> str:
    """Say a number of bytes in MB below a GB, in GB above."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def training_names(found: Any) -> Iterator[str]:
    """Find what stands under "trainings" anywhere in a JSON value."""
    if isinstance(found, Mapping):
        yield from (name for name in found.get("trainings", ()))
        found = [value for key, value in found.items() if key != "trainings"]
    if isinstance(found, list | tuple):
        for value in found:
            yield from training_names(value)


@dataclass(frozen=True)
class Unused:
    """What lies in a home's trainings and no finished run or study refers to.

    Attributes:
        paths: finished and broken-off trainings, and what killed processes left.
        bytes: that removing them frees; what a ticket holds too is not counted.
        young: as many more have been changed within the hour, and are left alone.
    """

    paths: tuple[Path, ...]
    bytes: int
    young: int

    def remove(self) -> None:
        """Remove them."""
        for path in self.paths:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def unused(home: Path, *, young: float = YOUNG) -> Unused:
    """Find the trainings under a home that no finished run or study refers to.

    Raises:
        VlcompressError: a run's or a study's document that cannot be read.
    """
    documents = [*home.glob("*/run.json"), *home.glob("studies/*/study.json")]
    used = {name for path in documents for name in training_names(read_json(path))}
    left = [path for path in sorted((home / "trainings").glob("*")) if path.name not in used]
    old = [path for path in left if time.time() - _changed(path) >= young]
    return Unused(tuple(old), sum(map(_freed, old)), len(left) - len(old))


def _files(path: Path) -> list[Path]:
    return [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]


def _changed(path: Path) -> float:
    return max(one.stat().st_mtime for one in (path, *_files(path)))


def _freed(path: Path) -> int:
    return sum(one.stat().st_size for one in _files(path) if one.stat().st_nlink == 1)

"""What is told of a training while it runs: an entry a step, kept as JSON lines and handed to whoever watches."""

import json
import math
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from vlcompress.artefacts import disk_errors
from vlcompress.devices import Compute
from vlcompress.training.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Entry:
    """One optimizer step.

    Attributes:
        step: steps done, this one included.
        loss: of its batch.
        rate: learning rate, the backbone's.
        gradient_norm: l2, before clipping; infinite where a float16 step was left out.
        seconds: since this process began with the training.
        memory: most bytes so far: of tensors on a GPU, of the process elsewhere.
        waited: seconds of those in which nothing could be computed, for the next batch was not read yet.
    """

    step: int
    loss: float
    rate: float
    gradient_norm: float
    seconds: float
    memory: int
    waited: float = 0.0

    def line(self) -> str:
        """Spell it as a JSON line; what is not finite as null."""
        plain = {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}
        return json.dumps(plain) + "\n"


Journal = Callable[[Entry], None]
"""Called with every step's entry, on a GPU some steps at a time."""


class Watcher(Protocol):
    """Told of trainings and their steps: progress on a terminal, trackers. Changes nothing about them."""

    def plan(self, trainings: int) -> None:
        """Expect at most so many trainings."""

    def begin(self, label: str, hyper: Hyperparameters) -> None:
        """Expect the steps of a training."""

    def step(self, entry: Entry) -> None:
        """Take in a step."""

    def end(self) -> None:
        """Close the training: done, or broken off."""


@dataclass(frozen=True)
class Watchers:
    """Several watchers as one."""

    all: Sequence[Watcher]

    def plan(self, trainings: int) -> None:
        """See `Watcher`."""
        for one in self.all:
            one.plan(trainings)

    def begin(self, label: str, hyper: Hyperparameters) -> None:
        """See `Watcher`."""
        for one in self.all:
            one.begin(label, hyper)

    def step(self, entry: Entry) -> None:
        """See `Watcher`."""
        for one in self.all:
            one.step(entry)

    def end(self) -> None:
        """See `Watcher`."""
        for one in self.all:
            one.end()


@contextmanager
def watched(path: Path, label: str, hyper: Hyperparameters, watcher: Watcher | None) -> Iterator[Journal]:
    """Keep every entry as a line of the file at `path`, and tell the watcher."""
    with ExitStack() as stack:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a", buffering=1, encoding="utf-8"))
        if watcher is not None:
            stack.callback(watcher.end)
            watcher.begin(label, hyper)

        def journal(entry: Entry) -> None:
            with disk_errors(path):
                file.write(entry.line())
            if watcher is not None:
                watcher.step(entry)

        yield journal


def each_step_once(lines: str) -> str:
    """Keep the last line of every step, in order: a training that was resumed has done some of them twice."""
    last: dict[int, str] = {}
    for line in lines.splitlines():
        try:
            last[json.loads(line)["step"]] = line
        except (ValueError, KeyError):  # half a line of a process that was killed
            continue
    return "".join(f"{last[step]}\n" for step in sorted(last))


def peak_bytes(compute: Compute) -> int:
    """Measure the most memory so far, see `Entry`; a GPU is not waited for."""
    if compute.on_gpu:
        return torch.cuda.max_memory_allocated(compute.torch_device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

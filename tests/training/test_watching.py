"""What is told of a training: every step once, the same bytes with and without, whoever watches."""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.training.test_loop import HYPER, LOWER, Regression, Steep, net, state
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import train
from vlcompress.training.trackers import TRACKERS, tracker_named
from vlcompress.training.watching import Entry, Watchers, each_step_once, watched


class Seen:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.trainings, self.labels, self.entries, self.ended = 0, [], [], 0

    def plan(self, trainings: int) -> None:
        self.trainings = trainings

    def begin(self, label: str, hyper: Hyperparameters) -> None:
        self.labels.append(label)

    def step(self, entry: Entry) -> None:
        self.entries.append(entry)

    def end(self) -> None:
        self.ended += 1


def test_every_step_is_a_line_and_changes_no_bit(tmp_path: Path) -> None:
    seen, path = Seen(), tmp_path / "log.jsonl"
    with watched(path, "dense", HYPER, Watchers([seen, Seen()])) as journal:
        told = train(net(), Regression(), HYPER, seed=0, journal=journal)
    assert state(told) == state(train(net(), Regression(), HYPER, seed=0))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, HYPER.steps + 1))
    assert lines[0].keys() == {"step", "loss", "rate", "gradient_norm", "seconds", "memory", "waited"}
    assert [entry.loss for entry in seen.entries] == [line["loss"] for line in lines]
    assert (seen.labels, seen.ended) == (["dense"], 1)
    assert lines[-1]["rate"] == 0.0
    assert max(line["rate"] for line in lines) == pytest.approx(HYPER.learning_rate, rel=0.1)
    assert all(line["gradient_norm"] > 0 and line["memory"] > 1 << 20 for line in lines)


def test_the_gradient_norm_is_that_before_clipping(tmp_path: Path) -> None:
    entries: list[Entry] = []
    train(net(), Regression(), replace(HYPER, clip=1e-3), seed=0, journal=entries.append)
    model, task = net(), Regression()
    batch = task.batch(list(range(16)), torch.Generator())
    assert entries[0].gradient_norm > 1e-3
    assert math.isfinite(task.loss(model, batch).item())


def test_a_float16_step_that_is_left_out_has_a_norm_of_null() -> None:
    entries: list[Entry] = []
    train(net(), Steep(), HYPER, seed=0, compute=LOWER[1], journal=entries.append)
    assert math.isinf(entries[0].gradient_norm) or math.isnan(entries[0].gradient_norm)
    assert json.loads(entries[0].line())["gradient_norm"] is None


def test_steps_that_were_done_twice_are_there_once_and_half_a_line_not_at_all() -> None:
    lines = '{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 2, "lo\n{"step": 2, "loss": 1}\n{"step": 3}\n'
    assert each_step_once(lines) == '{"step": 1, "loss": 3}\n{"step": 2, "loss": 1}\n{"step": 3}\n'


def test_a_watcher_is_told_the_end_of_a_training_that_breaks_off(tmp_path: Path) -> None:
    seen = Seen()
    with pytest.raises(KeyboardInterrupt), watched(tmp_path / "log", "dense", HYPER, seen):
        raise KeyboardInterrupt
    assert seen.ended == 1


def fake_tracker(name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put a module in a tracker's place that keeps every call, as `module` says the interface is."""
    module, _, _ = TRACKERS[name]
    calls: list[Any] = []
    made = ModuleType(module)
    made.__getattr__ = lambda call: lambda *args, **given: calls.append((call, args, given))  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, module, made)
    return calls


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("wandb", ["init", "log", "finish"]),
        ("trackio", ["init", "log", "finish"]),
        ("mlflow", ["set_experiment", "start_run", "log_params", "log_metrics", "end_run"]),
    ],
)
def test_trackers_are_called_as_their_interfaces_are(
    name: str, names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = fake_tracker(name, monkeypatch)
    with watched(tmp_path / "log", "seed 0 dense", HYPER, tracker_named(name, tmp_path)) as journal:
        told = train(net(), Regression(), HYPER, seed=0, journal=journal)
    assert state(told) == state(train(net(), Regression(), HYPER, seed=0))
    assert list(dict.fromkeys(call for call, _, _ in calls)) == names
    logged = [(args, given) for call, args, given in calls if call in ("log", "log_metrics")]
    assert len(logged) == HYPER.steps
    assert logged[2][1] == {"step": 3}
    assert logged[2][0][0].keys() == {"loss", "rate", "gradient_norm", "seconds", "memory", "waited"}


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with watched(tmp_path / "log", "seed 0 dense", HYPER, tracker_named("tensorboard", tmp_path)) as journal:
        told = train(net(), Regression(), HYPER, seed=0, journal=journal)
    assert state(told) == state(train(net(), Regression(), HYPER, seed=0))
    events = EventAccumulator(str(tmp_path / "tracked" / "seed-0-dense"))
    events.Reload()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log").read_text().splitlines()]
    assert [event.step for event in events.Scalars("loss")] == list(range(1, HYPER.steps + 1))
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)


def test_a_tracker_without_its_package_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(VlcompressError, match=r"--track wandb needs the package wandb .*pip install wandb"):
        tracker_named("wandb", tmp_path)
    with pytest.raises(VlcompressError, match=r"unknown tracker 'tensorbord': .* did you mean 'tensorboard'"):
        tracker_named("tensorbord", tmp_path)
    assert not list(tmp_path.iterdir())


def test_waiting_for_batches_is_counted_and_on_time_nothing_is() -> None:
    class Slow(Regression):
        def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
            time.sleep(0.02)
            return super().batch(indices, rng)

    for task, low, high in ((Slow(), 0.015, 0.1), (Regression(), -1.0, 0.01)):
        entries: list[Entry] = []
        train(net(), task, HYPER, seed=0, journal=entries.append)
        assert low < entries[-1].waited / HYPER.steps < high
        assert entries[-1].waited <= entries[-1].seconds + 0.001

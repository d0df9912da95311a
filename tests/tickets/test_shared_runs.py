"""A whole run on two devices, processes on the CPU: what one device finds, and what is left of a kill."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from tests.cli.test_prune import command, tree
from vlcompress.devices import Compute
from vlcompress.recipe import Recipe
from vlcompress.tickets.run import Run, find_ticket
from vlcompress.tickets.store import TrainingStore
from vlcompress.training.ranks import lead, on_devices

pytestmark = pytest.mark.nightly  # tests/training/test_ranks.py shows the same of single trainings in every run
TWO = Compute(devices=2)


def without_dropout() -> None:
    """Leave dropout out in this process: each device draws its own."""
    made = nn.Dropout.__init__
    nn.Dropout.__init__ = lambda self, p=0.5, inplace=False: made(self, 0.0, inplace)  # type: ignore[method-assign]


def found(recipe: Recipe, home: Path, compute: Compute) -> Run:
    lead(compute, without_dropout)
    without_dropout()
    return find_ticket(recipe, home, compute=compute, say=lambda line: None)


def test_masks_are_equal_and_scores_to_rounding(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense, two rounds ranked by gradients, a random mask and a language model's start."""
    monkeypatch.setattr(nn.Dropout, "__init__", nn.Dropout.__init__)
    recipe = recipe.override(pruning={"controls": ["random", "language"], "criterion": "gradient", "rewind_step": 2})
    shared, alone = on_devices(TWO, partial(found, recipe, tmp_path, TWO)), found(recipe, tmp_path, Compute())
    assert shared.folder != alone.folder
    cells = zip(shared.result().cells, alone.result().cells, strict=True)
    for ours, theirs in cells:
        assert (ours.arm, ours.round) == (theirs.arm, theirs.round)
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-6)
        results = [TrainingStore(tmp_path / "trainings").folder / one.trainings[0] for one in (ours, theirs)]
        assert results[0] != results[1]
        if ours.arm != "dense":
            masks = [(folder / "mask.safetensors").read_bytes() for folder in results]
            assert masks[0] == masks[1]


def descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(one for child in children for one in descendants(child))]


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended, though nobody may have asked how it ended."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_with_9(rank: int, tiny_scenes: Path, tmp_path: Path) -> None:
    """One line, exit code 2, nobody left; the same command again ends in the bytes of a run that nobody disturbed."""

    def start(home: Path) -> "subprocess.Popen[str]":
        more = ("--steps", "150", "--device", "cpu", "--devices", "2")
        line = [sys.executable, "-m", "vlcompress", *command(tiny_scenes, home, *more)]
        return subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    killed = start(tmp_path / "killed")
    while not list(tmp_path.glob("killed/trainings/*.log.jsonl")):
        time.sleep(0.02)
        assert killed.poll() is None
    family = descendants(killed.pid)
    os.kill(family[-2:][rank], signal.SIGKILL)
    _, said = killed.communicate(timeout=60)
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert killed.returncode == 2, said
    assert len(errors) == 1
    assert f"process {rank} of those that share the training was ended by SIGKILL" in errors[0]
    assert "Traceback" not in said
    time.sleep(1)
    assert not [pid for pid in family if runs(pid)]
    for home in (tmp_path / "killed", tmp_path / "whole"):
        again = start(home)
        _, said = again.communicate(timeout=120)
        assert again.returncode == 0, said
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")

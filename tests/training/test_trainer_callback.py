"""Masks hold in the Trainer of transformers: bfloat16 autocast, accumulated gradients, and two processes of DDP."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.training.small_bert import bert, lives
from tests.training.trained_by_trainer import trained
from vlcompress.errors import VlcompressError
from vlcompress.training.pruner import Pruner
from vlcompress.training.trainer_callback import FILE, PrunerCallback


def test_levels_are_pruned_on_time_and_hold_to_the_bit(tmp_path: Path) -> None:
    model, watch = trained(tmp_path)
    assert watch.found == [0] * 6
    assert watch.sparsities == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.6], abs=1e-3)
    assert lives(model, watch.pruner.masks) == 0
    assert {one.dtype for one in model.parameters()} == {torch.float32}


def test_without_a_period_a_trainer_only_holds_what_was_pruned(tmp_path: Path) -> None:
    _, watch = trained(tmp_path, every=0, steps=2, criterion="magnitude")
    assert watch.sparsities == [0, 0]


def test_a_training_too_short_for_its_schedule_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"ends at level 2 of 3 \(40% pruned\): 2 steps, one level every 1; lower"):
        trained(tmp_path, every=1, steps=2, criterion="magnitude")


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_masks(tmp_path: Path) -> None:
    """The checkpoint is of step 3 of 6: between two levels, in the middle of the sums."""
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    whole, watched = trained(tmp_path, **saving)
    shutil.rmtree(tmp_path / "checkpoint-6")
    model, watch = trained(tmp_path, resume=True, **saving)
    assert watch.found == [0] * 3
    assert watch.sparsities == watched.sparsities[3:]
    assert watch.pruner.masks.sha256() == watched.pruner.masks.sha256()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_checkpoint_without_the_pruner_or_of_another_one_is_refused(tmp_path: Path) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    trained(tmp_path, **saving)
    shutil.copy(tmp_path / "checkpoint-6" / FILE, tmp_path / "checkpoint-3" / FILE)
    shutil.rmtree(tmp_path / "checkpoint-6")
    with pytest.raises(VlcompressError, match="is not zero where its mask prunes it"):
        trained(tmp_path, resume=True, **saving)
    (tmp_path / "checkpoint-3" / FILE).unlink()
    with pytest.raises(VlcompressError, match=r"goes on from step 3, and there is no '.*pruner\.safetensors': name"):
        trained(tmp_path, resume=True, **saving)


def test_the_end_prunes_what_was_loaded_over_the_masks_and_lets_the_optimizer_go() -> None:
    model = bert()
    pruner, optimizer = Pruner(model, schedule="oneshot"), torch.optim.AdamW(model.parameters())
    callback: TrainerCallback = PrunerCallback(pruner)
    callback.on_train_begin(None, None, None, optimizer=optimizer)
    pruner.step()
    model.load_state_dict(bert(1).state_dict())  # as load_best_model_at_end does
    callback.on_train_end(None, None, None, optimizer=optimizer)
    assert lives(model, pruner.masks) == 0
    assert not optimizer._optimizer_step_post_hooks


def test_two_processes_hold_the_same_masks_over_the_same_weights(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.trained_by_trainer", str(tmp_path)],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    first, second = ((tmp_path / f"rank{rank}.txt").read_text() for rank in "01")
    assert first == second
    assert first.startswith(f"2 {[0] * 6} [0.0, 0.2")

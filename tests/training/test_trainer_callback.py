"""Masks hold in the Trainer of transformers: bfloat16 autocast, accumulated gradients, and two processes of DDP."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from tests.training.small_bert import bert, lives
from tests.training.trained_by_trainer import trained
from vlcompress.training.pruner import Pruner
from vlcompress.training.trainer_callback import PrunerCallback


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

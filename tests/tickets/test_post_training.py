"""Arms that prune once: trained again, as the dense model left them, or repaired; their masks, weights and refusals."""

from pathlib import Path

import pytest
import torch

from tests.tickets.test_imp import by_arm, opened
from vlcompress.cli.prune import METHODS as COMMANDS_METHODS
from vlcompress.errors import VlcompressError
from vlcompress.pruning.criterion import Wanda
from vlcompress.pruning.mask import Masks
from vlcompress.recipe import METHODS, Recipe, default_recipe
from vlcompress.tickets import experiment
from vlcompress.tickets.experiment import criterion_of
from vlcompress.tickets.imp import count_trainings, pruned, train_arms
from vlcompress.tickets.run import find_ticket
from vlcompress.training import calibration


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "EXAMPLES", 4)


@pytest.mark.usefixtures("whole_trainings")
def test_arms_that_prune_once_prune_the_dense_model_as_far_as_the_ticket(recipe: Recipe, tmp_path: Path) -> None:
    controls = ["oneshot", "magnitude", "wanda", "calibrated"]
    work = opened(recipe.override(pruning={"controls": controls, "pattern": "neuron+head"}), tmp_path)
    arms = by_arm(train_arms(work))
    dense, ticket = arms["dense"][0].trained[0], arms["ticket"][-1]
    for name in controls:
        assert arms[name][0].sparsity == pytest.approx(ticket.sparsity, abs=0.02)
        assert arms[name][0].verdict is not None
    trained = {name: arms[name][0].trained[0] for name in controls}
    at_once = pruned(
        work,
        dense,
        work.keep_all(),
        ticket.sparsity,
        work.recipe.pruning.pattern,
        criterion_of(work, dense, work.recipe.pruning.criterion, 0),
    )
    assert trained["oneshot"].masks().sha256() == trained["magnitude"].masks().sha256() == at_once.sha256()
    _keeps_dense_weights(dense.weights(), trained["magnitude"].weights(), at_once)
    _keeps_dense_weights(dense.weights(), trained["wanda"].weights(), trained["wanda"].masks())
    assert not _equal(dense.weights(), trained["calibrated"].weights(), trained["calibrated"].masks())
    for name, mask in trained["calibrated"].masks().items():
        assert (trained["calibrated"].weights()[name][~mask].view(torch.int32) == 0).all()


def _equal(dense: dict[str, torch.Tensor], sparse: dict[str, torch.Tensor], masks: Masks) -> bool:
    return all(torch.equal(sparse[name], dense[name] * mask) for name, mask in masks.items())


def _keeps_dense_weights(dense: dict[str, torch.Tensor], sparse: dict[str, torch.Tensor], masks: Masks) -> None:
    assert _equal(dense, sparse, masks)
    assert all(torch.equal(sparse[name], value) for name, value in dense.items() if name not in masks)


def test_the_calibrated_method_trains_the_dense_model_alone(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.override(pruning=METHODS["calibrated"])
    assert count_trainings(recipe) == 1
    run = find_ticket(recipe, tmp_path, say=lambda line: None)
    assert [cell.arm for cell in run.result().cells] == ["dense", "ticket"]
    logs = list((tmp_path / "trainings").glob("*/log.jsonl"))
    assert len(logs) == 1
    assert any("has been run" in line for line in _said(recipe, tmp_path))


def _said(recipe: Recipe, home: Path) -> list[str]:
    lines: list[str] = []
    find_ticket(recipe, home, say=lines.append)
    return lines


def test_two_repairs_in_one_order_of_neurons_share_what_was_measured(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is read from the disk for the control: another object of the same numbers."""
    measured = []
    monkeypatch.setattr(experiment, "moments", lambda *of: measured.append(of) or calibration.moments(*of))
    pruning = {**METHODS["calibrated"], "criterion": "magnitude", "pattern": "block:4x4", "permutation": "neurons"}
    ticket, control = train_arms(opened(recipe.override(pruning={**pruning, "controls": ["calibrated"]}), tmp_path))[1:]
    assert ticket.trained[0].permutation() is not None
    assert ticket.trained[0].folder != control.trained[0].folder
    assert len(measured) == 1


@pytest.mark.parametrize("criterion", ["wanda", "fisher"])
def test_a_criterion_and_its_repair_look_at_the_examples_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, criterion: str
) -> None:
    looked = []
    monkeypatch.setattr(experiment, "drawn", lambda of: looked.append(of) or calibration.drawn(of))
    work = opened(recipe.override(pruning={**METHODS["calibrated"], "criterion": criterion}), tmp_path)
    dense, ticket = train_arms(work)
    assert len(looked) == 1
    kept = work.moments(dense.trained[0])
    assert len(looked) == 1
    alone = calibration.moments(
        work.model_of(dense.trained[0]), work.family, calibration.drawn(work.train_task), work.prunable.names
    )
    assert all(torch.allclose(kept[name].second, alone[name].second, atol=1e-5) for name in alone)
    if criterion == "fisher":
        return
    model, names = work.model_of(dense.trained[0]), work.prunable.names
    scores = calibration.wanda(model, work.family, calibration.drawn(work.train_task), names)
    again = pruned(work, dense.trained[0], work.keep_all(), ticket.sparsity, work.recipe.pruning.pattern, Wanda(scores))
    assert again.sha256() == ticket.trained[0].masks().sha256()


def test_what_trains_nothing_says_which_settings_have_no_effect(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.override(pruning={**METHODS["calibrated"], "rewind_step": 1}, training={"distill": 1.0})
    told = [line for line in _said(recipe, tmp_path) if line.startswith("warning: ") and "no effect" in line]
    assert [line.split()[1] for line in told] == ["pruning.rewind_step", "training.distill"]


def test_the_command_knows_every_method() -> None:
    assert tuple(METHODS) == COMMANDS_METHODS


def test_oneshot_is_one_round_and_a_field_at_its_default_renames_nothing(recipe: Recipe) -> None:
    assert count_trainings(recipe.override(pruning=METHODS["oneshot"])) == 2
    assert recipe.override(pruning=METHODS["imp"]).sha256() == recipe.sha256()


def test_repair_goes_with_a_single_round(recipe: Recipe) -> None:
    with pytest.raises(
        VlcompressError, match=r"pruning.weights 'repaired' prunes once, and schedule 'linear:10' goes in rounds"
    ):
        recipe.override(pruning={"weights": "repaired", "schedule": "linear:10"})


def test_convolutions_and_pre_training_are_not_calibrated_and_say_so_before_training(tmp_path: Path) -> None:
    convolutions = default_recipe("resnet", "classification", "tiny")
    asked = [
        (convolutions, {"controls": ["calibrated"]}, "control 'calibrated'|is of a Conv2d"),
        (default_recipe("lxmert", "pretraining", "tiny"), {"criterion": "fisher"}, "criterion 'fisher' on pretraining"),
    ]
    for recipe, pruning, message in asked:
        with pytest.raises(VlcompressError, match=message):
            find_ticket(recipe.override(pruning=pruning), tmp_path, say=lambda line: None)
    assert not list(tmp_path.rglob("trainings"))

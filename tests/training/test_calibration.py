"""What examples show of weights, against the definitions computed one example at a time."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.recipe import default_recipe
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.training import calibration
from vlcompress.training.calibration import check_linear, drawn, fisher, moments, wanda, watched_inputs

NAME = "lxmert.encoder.layer.0.intermediate.dense.weight"


@pytest.fixture(scope="module")
def opened(tiny_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    recipe = default_recipe("lxmert", "vqa", "tiny").override(data={"source": str(tiny_scenes)})
    return open_experiment(recipe, tmp_path_factory.mktemp("home"), say=lambda line: None)


@pytest.fixture
def model(opened: Experiment, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.setattr(calibration, "EXAMPLES", 5)
    return opened.family.build(opened.config, opened.train_task.head, seed=0).eval()


def inputs_of(opened: Experiment, model: torch.nn.Module) -> Tensor:
    """Gather what goes into the layer of NAME on the calibration examples, [rows, in]."""
    seen: list[Tensor] = []
    layer = model.get_submodule(NAME.removesuffix(".weight"))
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(0, -2)))
    rng = torch.Generator().manual_seed(calibration.SEED)
    for index in torch.randperm(len(opened.train_task), generator=rng)[: calibration.EXAMPLES].tolist():
        opened.family.logits(model, opened.train_task.batch([index], rng).inputs)
    handle.remove()
    return torch.cat(seen)


def test_moments_are_means_over_all_words_of_the_examples(opened: Experiment, model: torch.nn.Module) -> None:
    found = moments(model, opened.family, drawn(opened.train_task), [NAME])[NAME]
    rows = inputs_of(opened, model)
    assert torch.allclose(found.mean, rows.mean(dim=0), atol=1e-6)
    assert torch.allclose(found.second, rows.T @ rows / len(rows), atol=1e-5)
    assert found.has_bias
    assert not model.get_submodule(NAME.removesuffix(".weight"))._forward_pre_hooks


def test_moments_are_the_same_however_many_rows_are_multiplied_at_once(
    opened: Experiment, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Query, key and value share a product; a layer of another input does not."""
    layer = "lxmert.encoder.layer.0.attention.self"
    names = [NAME, *(f"{layer}.{part}.weight" for part in ("query", "key", "value"))]
    found = []
    for rows in (1, 10**6):
        monkeypatch.setattr(calibration, "GATHERED", rows)
        found.append(moments(model, opened.family, drawn(opened.train_task), names))
    for name in names:
        one, all_ = (of[name] for of in found)
        assert torch.allclose(one.mean, all_.mean, atol=1e-6)
        assert torch.allclose(one.second, all_.second, atol=1e-5)
    assert not torch.equal(found[0][NAME].second, found[0][names[1]].second)


def test_a_batch_in_the_memory_of_one_that_was_freed_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "GATHERED", 1)
    model = torch.nn.Sequential(torch.nn.Linear(256, 2))
    with torch.no_grad(), watched_inputs(model, ["0.weight"]) as sums:
        for step in range(50):
            model(torch.full((1024, 256), float(step)))
    assert torch.equal(sums.moments()["0.weight"].mean, torch.full((256,), 24.5))


def test_wanda_is_the_weight_times_its_inputs_norm_and_within_a_row_nothing_else(
    opened: Experiment, model: torch.nn.Module
) -> None:
    found = wanda(model, opened.family, drawn(opened.train_task), [NAME])[NAME]
    weight, rows = model.get_parameter(NAME).detach(), inputs_of(opened, model)
    paper = weight.abs() * rows.norm(dim=0)
    ratio = found / paper
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3)
    assert float(found.square().sum()) == pytest.approx(
        float(paper.square().sum() / (rows @ weight.T).square().sum()), rel=1e-3
    )


def test_fisher_is_the_square_of_what_logits_move_along_a_direction_without_a_weight(
    opened: Experiment, model: torch.nn.Module
) -> None:
    """To first order in the weight: logits are computed a little to each side of it, and the direction is the same."""
    name = next(name for name in opened.prunable.names if name.endswith("pooler.dense.weight"))
    found = fisher(model, opened.family, drawn(opened.train_task), [name])[name]
    weight = model.get_parameter(name).detach()
    for row, column in ((0, 0), (3, 5), (7, 2)):
        kept = float(weight[row, column])
        moved = []
        for factor in (1.1, 0.9):
            weight[row, column] = kept * factor
            moved.append(_along(opened, model))
        weight[row, column] = kept
        change = (moved[0] - moved[1]) / 0.2
        assert float(found[row, column]) == pytest.approx(float(change.square().sum()), rel=0.05)


def _along(opened: Experiment, model: torch.nn.Module) -> Tensor:
    """Compute each example's logits along its random direction, float64 [examples]."""
    rng = torch.Generator().manual_seed(calibration.SEED)
    with torch.no_grad():
        logits = list(calibration._logits(model, opened.family, drawn(opened.train_task)))
    return torch.stack([(one.double() * torch.randn(one.shape, generator=rng)).sum() for one in logits])


def test_fisher_sums_over_examples_and_gives_nothing_to_what_is_not_used(
    opened: Experiment, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = next(name for name in opened.prunable.names if "visn_self_att" in name and ".x_layers." in name)
    found = fisher(model, opened.family, drawn(opened.train_task), [NAME, unused])
    assert found[NAME].shape == model.get_parameter(NAME).shape
    assert (found[NAME] >= 0).all()
    assert found[NAME].any()
    monkeypatch.setattr(calibration, "EXAMPLES", 1)
    assert (fisher(model, opened.family, drawn(opened.train_task), [NAME])[NAME].sum() < found[NAME].sum()).all()


def test_only_linear_layers_have_moments() -> None:
    convolution = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(
        VlcompressError, match=r"weight '0.weight' is of a Conv2d, and moments of inputs are of linear layers"
    ):
        check_linear(convolution, ["0.weight"])

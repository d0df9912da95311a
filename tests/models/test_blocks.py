"""Activation checkpointing changes no bit, and keeps less: of what is saved for the backward pass, in every family."""

import pytest
import torch
from torch import nn

from tests.training.test_placement import batch_of, model_of, objective_of
from vlcompress.models.blocks import checkpoint_blocks
from vlcompress.models.objective import Objective
from vlcompress.models.registry import family_named
from vlcompress.training.adversarial import Adversarial, parse_perturbation


def step(model: nn.Module, objective: Objective) -> tuple[torch.Tensor, int]:
    """Give loss and gradients in one vector, and the bytes that were kept for the backward pass, without weights."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    batch = batch_of(objective)
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = objective.loss(model.train(), batch)
    at_forward = sum(kept.values())
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([loss.detach()[None], *gradients]), at_forward


@pytest.mark.parametrize(
    ("name", "task"), [("lxmert", "vqa"), ("lxmert", "pretraining"), ("uniter", "vcr"), ("vilt", "nlvr2")]
)
def test_the_same_bits_with_dropout_and_less_is_kept(name: str, task: str) -> None:
    family = family_named(name)
    objective = objective_of(family, task)
    usual, much = step(model_of(family, objective.head), objective)
    model = model_of(family, objective.head)
    lists = [one for key, one in model.named_modules() if ".encoder." in key and isinstance(one, nn.ModuleList)]
    assert checkpoint_blocks(model) == sum(map(len, lists))
    again, little = step(model, objective)
    assert torch.equal(again, usual)
    assert little < 0.7 * much


def test_adversarial_passes_go_through_blocks_that_are_computed_again() -> None:
    family = family_named("uniter")
    objective = Adversarial(objective_of(family, "vqa"), family, parse_perturbation("text+image"))
    models = [model_of(family, objective_of(family, "vqa").head) for _ in range(2)]
    checkpoint_blocks(models[1])
    (usual, _), (again, _) = (step(model, objective) for model in models)
    assert torch.equal(again, usual)


def test_inference_and_models_without_blocks_are_left_alone() -> None:
    family = family_named("resnet")
    assert checkpoint_blocks(model_of(family, objective_of(family, "classification").head)) == 0

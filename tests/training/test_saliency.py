"""First-order saliency against a loop by hand; it changes nothing, and survives a death in the middle."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.test_loop import HYPER, Regression, masks, net, state
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import train
from vlcompress.training.optimizers import rate
from vlcompress.training.saliency import Kind, Saliency
from vlcompress.training.sampling import Sampler, generator, mix
from vlcompress.training.watching import Entry

NAMES = ("0.weight", "3.weight")
KINDS: tuple[Kind, ...] = ("gradient", "movement")


def products(hyper: Hyperparameters) -> dict[str, list[torch.Tensor]]:
    """Train by hand with plain gradient descent, and give w g of every step."""
    model, task = net().train(), Regression()
    found: dict[str, list[torch.Tensor]] = {name: [] for name in NAMES}
    velocity: dict[str, torch.Tensor] = {}
    for step in range(hyper.steps):
        batch = task.batch(Sampler(len(task), hyper.batch, 0).indices(step), generator(0, "batch", step))
        torch.manual_seed(mix(0, "dropout", step))
        model.zero_grad()
        task.loss(model, batch).backward()
        parameters = dict(model.named_parameters())
        for name in NAMES:
            found[name].append(parameters[name].detach() * parameters[name].grad)
        norm = torch.cat([one.grad.flatten() for one in model.parameters()]).norm()
        for name, one in parameters.items():
            gradient = one.grad * min(1.0, hyper.clip / float(norm)) + hyper.weight_decay * one.detach()
            velocity[name] = 0.9 * velocity.get(name, torch.zeros_like(gradient)) + gradient
            one.data -= hyper.learning_rate * rate("sgd", step + 1, hyper.steps, hyper.warmup) * velocity[name]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_a_loop_by_hand(kind: Kind) -> None:
    """The gradients are those before clipping, which shrinks them; "gradient" takes the last fifth of the steps."""
    hyper = replace(HYPER, steps=20, optimizer="sgd", clip=0.1)
    by_hand = products(hyper)
    model = net()
    saliency = Saliency(kind, model, NAMES, hyper.steps)
    train(model, Regression(), hyper, seed=0, saliency=saliency)
    for name in NAMES:
        steps = torch.stack(by_hand[name])
        expected = -steps.sum(dim=0) if kind == "movement" else steps[-4:].abs().sum(dim=0)
        torch.testing.assert_close(saliency.sums[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_to_the_bit_and_pruned_weights_count_nothing(kind: Kind) -> None:
    model, kept = net(), masks()
    saliency = Saliency(kind, model, NAMES, HYPER.steps)
    train(model, Regression(), HYPER, seed=0, masks=kept, saliency=saliency)
    assert state(model) == state(train(net(), Regression(), HYPER, seed=0, masks=kept))
    for name in NAMES:
        assert not saliency.sums[name][~kept[name]].any()
        assert saliency.sums[name][kept[name]].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_interrupted_training_ends_in_the_same_sums(tmp_path: Path, killed_at: int, kind: Kind) -> None:
    def die(entry: Entry) -> None:
        if entry.step == killed_at:
            raise KeyboardInterrupt

    def run(**more: object) -> dict[str, torch.Tensor]:
        model = net()
        saliency = Saliency(kind, model, NAMES, HYPER.steps)
        train(model, Regression(), HYPER, seed=0, masks=masks(), saliency=saliency, **more)
        return saliency.sums

    where = {"checkpoint": tmp_path / "under-way", "checkpoint_seconds": 0.0, "identity": "x"}
    with pytest.raises(KeyboardInterrupt):
        run(journal=die, **where)
    whole, again = run(), run(**where)
    assert all(torch.equal(whole[name], again[name]) for name in NAMES)

"""The loop on a model of a few weights: the mask is held to the bit, and a killed training ends in the same bytes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch
from vlcompress.pruning.mask import Masks
from vlcompress.tasks.base import Scores
from vlcompress.training.checkpoint import Checkpoint
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import _Losses, evaluate, train
from vlcompress.training.saliency import Saliency
from vlcompress.training.sampling import Sampler
from vlcompress.training.watching import Entry

LOWER = (Compute("cpu", "bf16"), Compute("cpu", "fp16"))
"""float16 is refused on the CPU where a user asks for it, since it is slow there; the loop itself is the GPU's."""

HYPER = Hyperparameters(steps=12, batch=4, learning_rate=0.05, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0)


class Regression:
    """Sixteen random vectors to be told apart by a small net with dropout."""

    metric = "agreement"

    def __init__(self, examples: int = 16) -> None:
        self.x = torch.randn(examples, 6, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        x = self.x[list(indices)]
        return Batch({"x": x + 0.01 * torch.randn(x.shape, generator=rng)}, {"y": x.sum(dim=1)})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch.inputs["x"])[:, 0] - batch.targets["y"]).square().mean()

    def evaluate(self, model: nn.Module, *, batch: int) -> Scores:
        positive = model(self.x)[:, 0] > 0
        return Scores((positive == (self.x.sum(dim=1) > 0)).float(), positive.long())


def net() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def masks() -> Masks:
    rng = torch.Generator().manual_seed(1)
    return Masks({"0.weight": torch.rand(8, 6, generator=rng) > 0.5, "3.weight": torch.rand(1, 8, generator=rng) > 0.5})


def state(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def test_it_learns() -> None:
    task = Regression()
    hyper = replace(HYPER, steps=200, batch=8)
    assert evaluate(train(net(), task, hyper, seed=0), task).mean > 0.9


def test_pruned_weights_are_bit_zero_after_every_step_and_in_both_moments() -> None:
    seen = []
    model, kept = net(), masks()

    def look(entry: Entry) -> None:
        weights = dict(model.named_parameters())
        seen.append(all((weights[name].detach()[~mask].view(torch.int32) == 0).all() for name, mask in kept.items()))

    train(model, Regression(), HYPER, seed=0, masks=kept, journal=look)
    assert seen == [True] * HYPER.steps
    assert (model.get_parameter("0.weight").detach()[kept["0.weight"]] != 0).all()


def test_a_mask_that_keeps_all_changes_no_bit() -> None:
    model = net()
    everything = Masks.keep_all({name: model.get_parameter(name) for name in ("0.weight", "3.weight")})
    dense, kept = train(net(), Regression(), HYPER, seed=0), train(net(), Regression(), HYPER, seed=0, masks=everything)
    assert state(dense) == state(kept)


def test_seed_decides_and_the_global_random_state_does_not() -> None:
    torch.manual_seed(1)
    first = train(net(), Regression(), HYPER, seed=0)
    torch.manual_seed(2)
    assert state(first) == state(train(net(), Regression(), HYPER, seed=0))
    assert state(first) != state(train(net(), Regression(), HYPER, seed=1))


@pytest.mark.parametrize("compute", [CPU, *LOWER], ids=lambda compute: compute.dtype)
@pytest.mark.parametrize("optimizer", ["bertadam", "adamw", "sgd"])
@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_interrupted_training_ends_in_the_same_bytes(
    tmp_path: Path, killed_at: int, optimizer: str, compute: Compute
) -> None:
    """A checkpoint after every step, death at one of them, and a fresh process's view: a new model, the same folder."""

    def die(entry: Entry) -> None:
        if entry.step == killed_at:
            raise KeyboardInterrupt

    hyper = replace(HYPER, optimizer=optimizer)
    whole = train(net(), Regression(), hyper, seed=0, masks=masks(), compute=compute)
    where = {"checkpoint": tmp_path / "under-way", "checkpoint_seconds": 0.0, "identity": "x", "compute": compute}
    with pytest.raises(KeyboardInterrupt):
        train(net(), Regression(), hyper, seed=0, masks=masks(), journal=die, **where)
    steps = []
    again = train(
        net(), Regression(), hyper, seed=0, masks=masks(), journal=lambda entry: steps.append(entry.step), **where
    )
    assert steps[0] == killed_at  # the step that was under way when it died, and none before it
    assert state(again) == state(whole)


@pytest.mark.parametrize("compute", LOWER, ids=lambda compute: compute.dtype)
def test_lower_precision_keeps_float32_weights_and_bit_zero_masks(compute: Compute) -> None:
    kept = masks()
    model = train(net(), Regression(), HYPER, seed=0, masks=kept, compute=compute)
    weights = model.state_dict()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert all((weights[name][~mask].view(torch.int32) == 0).all() for name, mask in kept.items())
    usual = train(net(), Regression(), HYPER, seed=0, masks=kept).state_dict()
    assert any(not torch.equal(weights[name], usual[name]) for name in usual)
    if compute.dtype == "bf16":  # float16 leaves out its first steps, see below
        torch.testing.assert_close(weights, usual, rtol=0, atol=0.05)


def test_steps_whose_float16_gradients_overflow_change_nothing_and_add_no_saliency() -> None:
    """The scale starts at 65536: gradients of 10 overflow float16 until it has been halved often enough."""
    task, model = Steep(), net()
    sums = Saliency("movement", model, ["0.weight"], HYPER.steps)
    train(model, task, HYPER, seed=0, compute=LOWER[1], saliency=sums)
    assert all(torch.isfinite(value).all() for value in (*model.state_dict().values(), sums.sums["0.weight"]))
    assert (sums.sums["0.weight"] != 0).any()


def test_losses_are_looked_at_every_so_often_and_the_exact_step_is_named() -> None:
    told: list[tuple[int, float]] = []
    losses = _Losses(HYPER, 3, lambda entry: told.append((entry.step, entry.loss)), CPU)
    for step in range(4):
        losses.add(step, torch.tensor(float(step)))
        losses.took(torch.tensor(1.0))
        losses.report(now=False)
    assert told == [(1, 0.0), (2, 1.0), (3, 2.0)]
    losses.report(now=True)
    assert told[3:] == [(4, 3.0)]
    losses.add(4, torch.tensor(1.0))
    losses.add(5, torch.tensor(float("nan")))
    with pytest.raises(VlcompressError, match="the loss is nan at step 5"):
        losses.add(6, torch.tensor(1.0))


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    where = {"checkpoint": tmp_path / "under-way", "checkpoint_seconds": 0.0}
    train(net(), Regression(), HYPER, seed=0, identity="x", **where)
    with pytest.raises(VlcompressError, match="is the checkpoint of another training"):
        train(net(), Regression(), HYPER, seed=0, identity="y", **where)


def test_a_checkpoint_brings_the_random_generator_back(tmp_path: Path) -> None:
    """The loop seeds every step itself; a loss that draws outside of it goes on from where it was."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(3)
    checkpoint = Checkpoint(tmp_path / "under-way", "x", model, optimizer)
    checkpoint.save(1)
    drawn = torch.rand(4)
    torch.manual_seed(4)
    assert checkpoint.load() == 1
    assert torch.equal(torch.rand(4), drawn)


class Steep(Regression):
    """A loss with gradients near 10."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * 10


class Flat(Regression):
    """A loss without a slope: all that moves a weight is its decay."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * 0


@pytest.mark.parametrize(("optimizer", "decayed"), [("bertadam", {True, False}), ("adamw", {True})])
def test_adamw_takes_decay_on_matrices_alone_and_each_group_its_rate(optimizer: str, decayed: set[bool]) -> None:
    before, model = net(), net()
    hyper = Hyperparameters(2, 4, 0.1, warmup=0.5, clip=5.0, weight_decay=0.5, head_rate=0.5, optimizer=optimizer)
    train(model, Flat(), hyper, seed=0, backbone_prefix="0.")  # one step at the peak, one at 0
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert {new.dim() > 1 for new, old in pairs if not torch.equal(new, old)} == decayed
    torch.testing.assert_close(model[0].weight, before[0].weight * (1 - 0.1 * 0.5))
    torch.testing.assert_close(model[3].weight, before[3].weight * (1 - 0.05 * 0.5))


def test_divergence_and_no_data_are_told() -> None:
    broken = Regression()
    broken.x[:] = float("nan")
    with pytest.raises(VlcompressError, match="the loss is nan at step 0: lower the learning rate"):
        train(net(), broken, HYPER, seed=0)
    with pytest.raises(VlcompressError, match="no example to train on"):
        train(net(), Regression(0), HYPER, seed=0)


def test_sampler_takes_every_example_once_an_epoch() -> None:
    sampler = Sampler(examples=10, batch=3, seed=4)
    epoch = [index for step in range(3) for index in sampler.indices(step)]
    assert len(set(epoch)) == 9
    assert sampler.indices(3) != sampler.indices(0)
    assert sampler.indices(1) == epoch[3:6]

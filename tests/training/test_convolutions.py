"""Training a ResNet: pruned convolutions stay bit-zero, and batch statistics are part of every state that is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.pruning.mask import Masks
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import MaskKeeper, train
from vlcompress.training.watching import Entry

FAMILY = ResnetFamily()
HYPER = Hyperparameters(6, 4, 0.1, warmup=0.2, clip=5.0, weight_decay=2e-4, head_rate=1.0, optimizer="sgd")


class Pictures:
    """Random pictures whose class is the sign of their first pixel."""

    def __init__(self) -> None:
        self.pixels = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        pixels = self.pixels[list(indices)]
        return Batch({"pixel_values": pixels}, {"class": (pixels[:, 0, 0, 0] > 0).long()})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(FAMILY.logits(model, batch.inputs), batch.targets["class"])


def _model() -> Any:
    return FAMILY.build(FAMILY.config("tiny"), Head("classes", ("a", "b")), seed=0)


def _masks(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(1)
    parameters = dict(model.named_parameters())
    names = FAMILY.prunable(model, "conv-except-conv1").names
    return Masks({name: torch.rand(parameters[name].shape, generator=generator) > 0.5 for name in names})


def _bytes(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_pruned_convolutions_are_bit_zero_in_weight_and_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.optim.Optimizer] = []
    enforce = MaskKeeper.enforce

    def spy(keeper: MaskKeeper, optimizer: torch.optim.Optimizer) -> None:
        enforce(keeper, optimizer)
        seen.append(optimizer)

    monkeypatch.setattr(MaskKeeper, "enforce", spy)
    model = _model()
    masks = _masks(model)
    train(model, Pictures(), HYPER, seed=0, masks=masks)
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        momentum = seen[-1].state[parameters[name]]["momentum_buffer"]
        assert not parameters[name][~mask].detach().view(torch.int32).any(), name
        assert not momentum[~mask].view(torch.int32).any(), name
        assert parameters[name][mask].detach().any(), name


def test_batch_statistics_move_in_training_and_not_in_evaluation() -> None:
    before, model = _model().state_dict(), train(_model(), Pictures(), HYPER, seed=0)
    after = model.state_dict()
    name = "resnet.embedder.embedder.normalization.running_mean"
    assert not torch.equal(after[name], before[name])
    assert int(after["resnet.encoder.stages.0.layers.0.layer.0.normalization.num_batches_tracked"]) == 6
    kept = after[name].clone()
    FAMILY.logits(model, Pictures().batch(range(4), torch.Generator()).inputs)
    assert torch.equal(model.state_dict()[name], kept)


def test_a_resumed_training_has_the_same_statistics(tmp_path: Path) -> None:
    def die(entry: Entry) -> None:
        if entry.step == 3:
            raise KeyboardInterrupt

    whole = train(_model(), Pictures(), HYPER, seed=0, masks=_masks(_model()))
    where = {"checkpoint": tmp_path / "under-way", "checkpoint_seconds": 0.0, "identity": "x"}
    with pytest.raises(KeyboardInterrupt):
        train(_model(), Pictures(), HYPER, seed=0, masks=_masks(_model()), journal=die, **where)
    again = train(_model(), Pictures(), HYPER, seed=0, masks=_masks(_model()), **where)
    assert _bytes(again) == _bytes(whole)

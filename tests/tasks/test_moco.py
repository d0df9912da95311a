"""MoCo: the loss by its definition, the queue first in first out, the key encoder a moving average without gradient."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from tests.tasks.conftest import MemoryPictures, make_data, make_reader
from vlcompress.artefacts import save_tensors
from vlcompress.data.examples import ClassExample
from vlcompress.models.base import Head
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.models.resnet.momentum import MOMENTUM, QUEUE, follow, remember
from vlcompress.pruning.mask import Masks
from vlcompress.tasks.moco import MocoTask, info_nce
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import train
from vlcompress.training.watching import Entry

FAMILY = ResnetFamily()
CONFIG = FAMILY.config("tiny")
HYPER = Hyperparameters(
    steps=3, batch=4, learning_rate=0.1, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0, optimizer="sgd"
)


def rows(count: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def task() -> MocoTask:
    pictures = MemoryPictures({}, {})
    examples = [ClassExample("a" * n, "a" * n, 0) for n in range(1, 9)]
    return MocoTask(make_data("moco", examples, pictures, ("x", "y")), make_reader(FAMILY, pictures))


def test_the_loss_is_its_definition() -> None:
    queries, keys, queue = rows(3, 0), rows(3, 1), rows(7, 2)
    wanted = 0.0
    for query, key in zip(queries, keys, strict=True):
        own = math.exp(float(query @ key) / 0.2)
        wanted -= math.log(own / (own + sum(math.exp(float(query @ old) / 0.2) for old in queue))) / 3
    assert float(info_nce(queries, keys, queue, 0.2)) == pytest.approx(wanted, rel=1e-12)


def test_the_oldest_keys_leave_the_queue_first() -> None:
    model = FAMILY.build(CONFIG, Head("classes", ("x", "y"), "momentum"), seed=0)
    marked = torch.arange(QUEUE + 3.0)[:, None].expand(-1, 2)
    remember(model, marked[: QUEUE - 1])
    remember(model, marked[QUEUE - 1 :])
    queue = model.get_buffer("queue")[:, 0]
    assert queue[:3].tolist() == [QUEUE, QUEUE + 1, QUEUE + 2]
    assert queue[3:].tolist() == list(range(3, QUEUE))


def test_the_key_encoder_is_a_copy_first_and_then_follows() -> None:
    model = FAMILY.build(CONFIG, Head("classes", ("x", "y"), "momentum"), seed=0)
    name = "classifier.1.weight"
    own = model.get_parameter(name)
    assert torch.equal(follow(model).get_parameter(name), own)
    remember(model, torch.zeros(1, 2))
    before = own.detach().clone()
    with torch.no_grad():
        own.add_(1)
    assert torch.allclose(follow(model).get_parameter(name), before + (1 - MOMENTUM), atol=1e-6)
    assert torch.allclose(model.get_buffer("queue")[1:].norm(dim=1), torch.ones(QUEUE - 1))


def test_training_moves_the_key_side_without_gradient_and_keeps_zeros_zero() -> None:
    objective = task()
    model = FAMILY.build(CONFIG, objective.head, seed=0)
    name = "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
    mask = Masks({name: torch.arange(model.get_parameter(name).numel()).reshape_as(model.get_parameter(name)) % 2 == 0})
    train(model, objective, HYPER, seed=0, masks=mask, backbone_prefix="resnet.")
    assert int(model.get_buffer("queue_taken")) == 12
    key = model.get_parameter(f"encoder_k.{name}")
    assert key.grad is None
    assert not key[~mask[name]].any()
    assert not torch.equal(key, model.get_parameter(name))


def test_a_resumed_training_continues_the_queue(tmp_path: Path) -> None:
    objective = task()
    whole = FAMILY.build(CONFIG, objective.head, seed=0)
    train(whole, objective, HYPER, seed=0)
    stopped = FAMILY.build(CONFIG, objective.head, seed=0)

    def stop(entry: Entry) -> None:
        if entry.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, objective, HYPER, seed=0, checkpoint=tmp_path / "c", checkpoint_seconds=0, journal=stop)
    resumed = FAMILY.build(CONFIG, objective.head, seed=0)
    train(resumed, objective, HYPER, seed=0, checkpoint=tmp_path / "c")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_its_weights_start_a_classifier_without_the_key_side(tmp_path: Path) -> None:
    head = Head("classes", ("x", "y"), "momentum")
    model = FAMILY.build(CONFIG, head, seed=1)
    save_tensors(tmp_path / "weights.safetensors", model.state_dict())
    plain = FAMILY.build(CONFIG, Head("classes", ("x", "y", "z")), seed=2)
    report = FAMILY.load(plain, str(tmp_path / "weights.safetensors"), fresh_head=True)
    assert any("key encoder" in note for note in report.notes)
    again = FAMILY.build(CONFIG, head, seed=3)
    FAMILY.load(again, str(tmp_path / "weights.safetensors"), fresh_head=True)
    for target in (plain, again):
        name = "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
        assert torch.equal(target.get_parameter(name), model.get_parameter(name))
    prunable = FAMILY.prunable(model, "conv-except-conv1")
    assert not any(name.startswith("encoder_k.") for name in prunable.names)

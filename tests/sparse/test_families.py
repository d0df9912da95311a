"""Compiling the families of pictures: ViLT's units go as LXMERT's do, and convolutions stay dense and say why."""

import pytest
import torch
from torch import Tensor

from vlcompress.models.base import Head
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.models.vilt.adapter import ViltFamily
from vlcompress.sparse.compile import compile_model, scores
from vlcompress.sparse.shrink import shrink
from vlcompress.sparse.timing import Effort

QUICK = Effort(rounds=2, burst_s=0.0, warmup=0)
CLASSES = ("cat", "dog", "car")


def test_vilts_silent_heads_and_neurons_are_removed() -> None:
    family = ViltFamily()
    config = family.config("tiny", vocab_size=50)
    model = family.build(config, Head("answers", CLASSES), seed=0).eval()
    parameters = dict(model.named_parameters())
    masks: dict[str, Tensor] = {
        name: torch.ones(parameters[name].shape, dtype=torch.bool)
        for name in family.prunable(model, "bert-tickets").names
    }
    with torch.no_grad():
        for parameter in model.parameters():  # biases, too: a silent unit leaves a constant
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.1)
        for index, one in enumerate(family.couplings(model)):
            names, rows = (one.producers, slice(0, one.unit_size)) if index % 2 else ((one.consumer,), slice(0, 0))
            for name in names:
                masks[name][rows] = False
            if not index % 2:
                masks[one.consumer][:, : one.unit_size] = False
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0)
    inputs = family.example_inputs(config, batch=4, text=6, regions=4, seed=0)
    smaller, _, kept = shrink(family, model, masks)
    assert [units.units - len(units.kept) for units in kept] == [1, 1, 1, 1]
    torch.testing.assert_close(scores(family, smaller, inputs), scores(family, model, inputs), atol=1e-5, rtol=1e-5)


def test_convolutions_stay_dense_and_say_why() -> None:
    family = ResnetFamily()
    config = family.config("tiny")
    model = family.build(config, Head("classes", CLASSES), seed=0).eval()
    parameters = dict(model.named_parameters())
    masks = {
        name: torch.rand(parameters[name].shape) > 0.5 for name in family.prunable(model, "conv-except-conv1").names
    }
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0)
    inputs = family.example_inputs(config, batch=2, text=1, regions=1, seed=0)
    _, plan = compile_model(family, model, masks, (1, 1), inputs=inputs, effort=QUICK)
    assert plan.max_abs_error == 0
    assert {(layer.format, layer.choice.why) for layer in plan.layers} == {
        ("dense", "it is a convolution, and only matrices are packed")
    }
    second = plan.layers[1]
    assert second.shape == (8, 8 * 9)
    assert second.rows == 2 * 16 * 16
    assert second.sparsity == pytest.approx(1 - masks[second.name].float().mean().item())

"""Attention and feed-forward layers are found by structure, and what is not understood is refused by name."""

import re
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tests.models.encoder.architectures import ENCODERS, config_of, head_of
from vlcompress.errors import VlcompressError
from vlcompress.models.encoder.anatomy import couplings_of
from vlcompress.models.registry import family_named

HEADS_AND_NEURONS = {
    "clip": (2, 2),
    "clip-vision": (1, 1),
    "siglip": (2, 2),
    "blip-itm": (3, 2),  # text attends to itself and to the picture
    "blip-vqa": (3, 2),
    "bridgetower": (8, 6),
    "dinov2": (1, 1),
    "dinov3": (1, 1),
    "vit": (1, 1),
    "visual_bert": (1, 1),
    "bert": (1, 1),
    "sentence-bert": (1, 1),
    "distilbert": (1, 1),
    "roberta": (1, 1),
}


def built(name: str) -> nn.Module:
    config = config_of(name)
    return family_named("encoder", config).build(config, head_of(name, config), seed=0).eval()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_attention_and_feed_forward_layer_is_coupled(name: str) -> None:
    model = built(name)
    couplings = couplings_of(model)
    counts = tuple(sum(one.kind == kind for one in couplings) for kind in ("head", "neuron"))
    assert counts == HEADS_AND_NEURONS[name]
    shapes = {weight: parameter.shape for weight, parameter in model.named_parameters()}
    for one in couplings:
        width = one.units * one.unit_size
        assert all(shapes[producer][0] == width for producer in one.producers)
        assert shapes[one.consumer][1] == width


@pytest.mark.parametrize("name", ENCODERS)
def test_nothing_reads_a_unit_but_its_consumer(name: str) -> None:
    """Without its consumer's columns a unit may hold anything: the answer is the same."""
    config = config_of(name)
    family, model = family_named("encoder", config), built(name)
    inputs = family.example_inputs(config, batch=2, text=5, regions=3, seed=0)
    with torch.inference_mode():
        for one in couplings_of(model):
            model.get_parameter(one.consumer)[:, : one.unit_size] = 0
        expected = family.logits(model, inputs)
        for one in couplings_of(model):
            for producer in one.producers:
                model.get_parameter(producer)[: one.unit_size] = 3.0
        torch.testing.assert_close(family.logits(model, inputs), expected)


def test_gated_neurons_have_two_producers_and_no_constant() -> None:
    own = transformers.DINOv3ViTConfig(
        hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=1, use_gated_mlp=True
    )
    (neurons,) = [one for one in couplings_of(transformers.DINOv3ViTModel(own)) if one.kind == "neuron"]
    assert [name.split(".")[-2] for name in neurons.producers] == ["up_proj", "gate_proj"]
    assert neurons.constant_from == ""


def test_positions_that_turn_a_head_keep_its_channels_in_order() -> None:
    turned = {name: couplings_of(built(name))[0].turned for name in ("dinov2", "dinov3")}
    assert turned == {"dinov2": False, "dinov3": True}


class Stack(nn.Module):
    """Blocks of one kind."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)


class OddAttention(nn.Module):
    """Attention of a structure of its own."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def projections(key: int = 8, output: int = 8) -> dict[str, Any]:
    widths = {"q_proj": 8, "k_proj": key, "v_proj": key}
    return {name: nn.Linear(8, rows) for name, rows in widths.items()} | {"o_proj": nn.Linear(output, 8)}


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (OddAttention(mixed=nn.Linear(8, 24)), "'layers.0' is not understood: OddAttention has none of the structures"),
        (OddAttention(**projections(key=4), head_dim=2), "'layers.0' has grouped key and value heads (8 rows"),
        (OddAttention(**projections(output=16), head_dim=2), "'layers.0' is not understood: no output projection of 8"),
        (OddAttention(**projections()), "'layers.0' is not understood: it says no width of a head"),
        (OddAttention(**projections(key=16), head_dim=2), "its query, key and value have 8, 16, 16 rows"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(attention: nn.Module, message: str) -> None:
    with pytest.raises(VlcompressError, match=re.escape(message)):
        couplings_of(Stack(attention))

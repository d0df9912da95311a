"""Every architecture of encoders goes the whole way: masks of each kind, compiled, shrunk, and a file that agrees."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.encoder.architectures import ENCODERS, config_of, head_of
from vlcompress.export.onnx import export_onnx
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.registry import family_named
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Ranking
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.sparse.compile import compile_model
from vlcompress.sparse.plan import CompilePlan
from vlcompress.sparse.timing import Effort

EACH_FORM = ("clip", "blip-itm", "bert", "dinov3")
"""An encoder of each structure, for every run: two towers, fused matrices, words, pixels."""
QUICK = Effort(rounds=1, burst_s=0.0, warmup=0)


def masked(name: str, pattern: str) -> tuple[Family, Config, Head, Any, Masks]:
    """Make a fresh model whose biases are no zeros, as after training, and prune half of it."""
    config = config_of(name)
    family, head = family_named("encoder", config), head_of(name, config)
    model = family.build(config, head, seed=0).eval()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        prunable = family.prunable(model, family.policies[0]).names
        weights = {weight: model.get_parameter(weight).detach() for weight in prunable}
        masks = prune(
            weights,
            Masks.keep_all(weights),
            0.5,
            pattern=parse_pattern(pattern),
            criterion=Ranking("magnitude").of(0, None),
            allocation=Global(),
            couplings=family.couplings(model),
        )
        for weight, mask in masks.items():
            model.get_parameter(weight).mul_(mask)
    return family, config, head, model, masks


def compiled(name: str, pattern: str) -> tuple[Family, Config, Head, Any, dict[str, Any], CompilePlan]:
    """Compile a masked model, which compares its scores with the masked one's."""
    family, config, head, model, masks = masked(name, pattern)
    inputs = family.example_inputs(config, batch=3, text=6, regions=5, seed=1)
    storage = parse_pattern(pattern).storage
    smaller, plan = compile_model(family, model, masks, storage, inputs=inputs, effort=QUICK)
    return family, config, head, smaller, inputs, plan


@pytest.mark.parametrize("pattern", ["unstructured", "block:8x8", "2:4"])
@pytest.mark.parametrize("name", ENCODERS)
def test_weights_of_every_pattern_compile(name: str, pattern: str) -> None:
    plan = compiled(name, pattern)[-1]
    stored = {"unstructured": "dense", "block:8x8": "bsr", "2:4": "2:4"}[pattern]
    assert stored in {layer.format for layer in plan.layers}


@pytest.mark.parametrize(
    "name", [name if name in EACH_FORM else pytest.param(name, marks=pytest.mark.nightly) for name in ENCODERS]
)
def test_heads_and_neurons_are_removed_and_the_file_agrees(name: str, tmp_path: Path) -> None:
    family, config, head, smaller, inputs, plan = compiled(name, "neuron+head")
    removed = {units.kind: units.units - len(units.kept) for units in plan.kept if len(units.kept) < units.units}
    assert removed.keys() == {"head", "neuron"}
    manifest = export_onnx(family, smaller, tmp_path / "onnx", [inputs], config=config, head=head, effort=QUICK)
    assert manifest.parity.keys() == {"samples", "random shapes"}

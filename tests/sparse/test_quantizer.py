"""A compiled model opens through transformers with the scores that it has here, shrunk and packed as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from tests.models.encoder.architectures import ENCODERS, config_of, head_of
from vlcompress.devices import CPU
from vlcompress.kernels.linear import BlockSparseLinear
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.registry import family_named
from vlcompress.models.uniter import heads as uniter
from vlcompress.sparse.compile import load_compiled, pack_model, place, save_compiled, scores
from vlcompress.sparse.timing import Effort
from vlcompress.training.checkpoint import distinct

HEAD = Head("answers", ("yes", "no", "red"))


def masked(family: Family, model: nn.Module, *, layers: bool = False) -> dict[str, Tensor]:
    """Prune a head of each attention, and of feed-forward layers in turn half of the inputs and of the neurons.

    Of whole layers the first attention and the second feed-forward layer go.
    """
    weights, masks = dict(model.named_parameters()), {}
    generator = torch.Generator().manual_seed(0)
    couplings = sorted(family.couplings(model), key=lambda one: one.kind == "head")
    for number, coupling in enumerate(couplings):
        names = (*coupling.producers, coupling.consumer)
        masks |= {name: torch.ones(weights[name].shape, dtype=torch.bool) for name in names}
        if coupling.kind == "head" or number % 2:
            gone = coupling.unit_size * (1 if coupling.kind == "head" else coupling.units // 2)
            masks[coupling.consumer][:, :gone] = False
            for name in coupling.producers:
                masks[name][:gone] = False
        else:
            masks[coupling.producers[0]][:, 8:24] = False
    whole = [couplings[1], next(one for one in couplings if one.kind == "head")] if layers else []
    for name in (name for one in whole for name in (*one.producers, one.consumer)):
        masks[name][:] = False
    with torch.no_grad():
        for name, weight in weights.items():
            if weight.dim() == 1:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
            elif name in masks:
                weight *= masks[name] * 5
    return masks


def tiny(name: str) -> tuple[Family, Config, Head]:
    if name in ENCODERS:
        config = config_of(name)
        return family_named("encoder", config), config, head_of(name, config)
    return family_named(name), family_named(name).config("tiny", vocab_size=60, feature_dim=16), HEAD


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ["lxmert", "vilt", "uniter", *ENCODERS])
def test_a_compiled_model_opens_in_transformers(name: str, whole: bool, tmp_path: Path) -> None:
    family, config, head = tiny(name)
    model = family.build(config, head, seed=0).eval()
    masks = masked(family, model, layers=whole)
    plain = {key: value for key, value in config.items() if key != "model_type"}
    form = family.hub_form(plain, head, distinct(model.state_dict()))
    assert form is not None
    inputs = family.example_inputs(config, batch=2, text=7, regions=3, seed=0)
    packed = pack_model(family, model, masks, (8, 8), inputs)
    tensors = packed.model.state_dict()
    _, plan = place(packed, family, model, 1, CPU, "grouped", Effort(1, 0.0001, 0))
    save_compiled(tmp_path, tensors, plan, family=family, config=config, head=head, extra={}, form=form)
    expected = scores(family, model, inputs)
    here = load_compiled(tmp_path, {family.name: family})
    assert here.notice is None
    torch.testing.assert_close(scores(family, here.model, inputs), expected, atol=2e-5, rtol=1e-4)

    made: Any = getattr(transformers, form.kind, None) or getattr(uniter, form.kind)
    opened, info = made.from_pretrained(tmp_path, output_loading_info=True)
    assert (sorted(info["missing_keys"]), list(info["unexpected_keys"])) == (list(form.missing), [])
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    layers = {name: one.backend for name, one in opened.named_modules() if isinstance(one, BlockSparseLinear)}
    assert layers == {name: one["backend"] for name, one in said["packed"].items()}
    assert "grouped" in layers.values()
    assert {tuple(one) for one in said["heads"].values()} <= {(4, 3)}
    assert len(said["gone"]) == sum(not masks[one.consumer].any() for one in family.couplings(model))
    assert all(name not in {**opened.state_dict()} for one in said["gone"] for name in gone_weights(one))
    with torch.inference_mode():
        found = answered(name, opened.eval(), here.model, family, inputs)
    expected = expected[:, 0] @ expected[:, 1].T if found.shape != expected.shape else expected
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="not serializable"):
        opened.save_pretrained(tmp_path / "again")


def gone_weights(layer: dict[str, Any]) -> list[str]:
    """Name the weights of a layer that was taken out."""
    return [f"{name}.weight" for name in (*layer["producers"], layer["consumer"])]


def answered(name: str, opened: Any, here: Any, family: Family, inputs: dict[str, Tensor]) -> Tensor:
    """Score by a model of transformers, with the head that lies beside where the class has none."""
    if name == "clip-vision":
        vector = torch.nn.functional.normalize(opened(**inputs).image_embeds, dim=-1)
        scored: Tensor = here.head(vector * here.backbone.logit_scale.exp())
        return scored
    if name in ENCODERS and hasattr(here, "head") and not hasattr(opened, "classifier"):
        (part,) = here.encoder
        here.encoder[part] = opened
        return family.logits(here, inputs)
    given = {key: value.long() if value.dtype == torch.bool else value for key, value in inputs.items()}
    output = opened(**given)
    places = ("logits", "question_answering_score", "logits_per_text")
    found: Tensor = output if isinstance(output, Tensor) else next(output[one] for one in places if one in output)
    return found - getattr(opened, "logit_bias", 0.0)

"""A compiled model opens through transformers with the scores that it has here, shrunk and packed as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from vlcompress.devices import CPU
from vlcompress.kernels.linear import BlockSparseLinear
from vlcompress.models.base import Family, Head
from vlcompress.models.registry import family_named
from vlcompress.models.uniter import heads as uniter
from vlcompress.sparse.compile import load_compiled, pack_model, place, save_compiled, scores
from vlcompress.sparse.timing import Effort
from vlcompress.training.checkpoint import distinct

HEAD = Head("answers", ("yes", "no", "red"))


def masked(family: Family, model: nn.Module) -> dict[str, Tensor]:
    """Prune a head of each attention, and of feed-forward layers in turn half of the inputs and of the neurons."""
    weights, masks = dict(model.named_parameters()), {}
    generator = torch.Generator().manual_seed(0)
    for number, coupling in enumerate(family.couplings(model)):
        names = (*coupling.producers, coupling.consumer)
        masks |= {name: torch.ones(weights[name].shape, dtype=torch.bool) for name in names}
        if coupling.kind == "head" or number % 2:
            gone = coupling.unit_size * (1 if coupling.kind == "head" else coupling.units // 2)
            masks[coupling.consumer][:, :gone] = False
            for name in coupling.producers:
                masks[name][:gone] = False
        else:
            masks[coupling.producers[0]][:, 8:24] = False
    with torch.no_grad():
        for name, weight in weights.items():
            if weight.dim() == 1:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
            elif name in masks:
                weight *= masks[name] * 5
    return masks


@pytest.mark.parametrize("name", ["lxmert", "vilt", "uniter"])
def test_a_compiled_model_opens_in_transformers(name: str, tmp_path: Path) -> None:
    family = family_named(name)
    config = family.config("tiny", vocab_size=60, feature_dim=16)
    model = family.build(config, HEAD, seed=0).eval()
    masks = masked(family, model)
    plain = {key: value for key, value in config.items() if key != "model_type"}
    form = family.hub_form(plain, HEAD, distinct(model.state_dict()))
    assert form is not None
    inputs = family.example_inputs(config, batch=2, text=7, regions=3, seed=0)
    packed = pack_model(family, model, masks, (8, 8), inputs)
    tensors = packed.model.state_dict()
    _, plan = place(packed, family, model, 1, CPU, "grouped", Effort(1, 0.0001, 0))
    save_compiled(tmp_path, tensors, plan, family=family, config=config, head=HEAD, extra={}, form=form)
    assert load_compiled(tmp_path, {name: family}).notice is None

    made: Any = getattr(transformers, form.kind, None) or getattr(uniter, form.kind)
    opened, info = made.from_pretrained(tmp_path, output_loading_info=True)
    assert (list(info["missing_keys"]), list(info["unexpected_keys"])) == ([], [])
    layers = [one for one in opened.modules() if isinstance(one, BlockSparseLinear)]
    assert layers
    assert {one.backend for one in layers} == {"grouped"}
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert set(said["heads"].values() and [tuple(one) for one in said["heads"].values()]) == {(4, 3)}
    given = {key: value.long() if value.dtype == torch.bool else value for key, value in inputs.items()}
    with torch.inference_mode():
        output = opened.eval()(**given)
    places = ("logits", "question_answering_score")
    found = output if isinstance(output, Tensor) else next(output[one] for one in places if one in output)
    torch.testing.assert_close(found, scores(family, model, inputs), atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="not serializable"):
        opened.save_pretrained(tmp_path / "again")

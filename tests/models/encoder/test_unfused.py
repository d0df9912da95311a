"""Fused attention is taken apart only where the parts compute the same."""

import re
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.models.encoder.unfused import UnfusedQkv, UnfusedTorch, taken_apart, unfuse

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2}


def pictures() -> nn.Module:
    torch.manual_seed(0)
    own = transformers.BlipVisionConfig(**SIZES, image_size=16, patch_size=8)
    return transformers.BlipVisionModel(own).eval()


def test_a_model_computes_the_same_without_fused_matrices() -> None:
    model = pictures()
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = model(pixels).last_hidden_state
        unfuse(model)
        torch.testing.assert_close(model(pixels).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert sum(isinstance(module, UnfusedQkv) for module in model.modules()) == 2


@pytest.mark.parametrize("batch_first", [False, True])
def test_torch_attention_computes_the_same(batch_first: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ModuleList([nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()]))
    original = model[0][0]  # type: ignore[index]
    hidden = torch.randn(3, 5, 32)
    expected = original(hidden, hidden, hidden)[0]
    unfuse(model)
    replaced = model[0][0]  # type: ignore[index]
    assert isinstance(replaced, UnfusedTorch)
    torch.testing.assert_close(replaced.eval()(hidden, hidden, hidden)[0], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(NotImplementedError):
        replaced(hidden, hidden, hidden, attn_mask=torch.zeros(5, 5))


def test_fused_tensors_of_a_checkpoint_are_split_where_the_model_is() -> None:
    model = pictures()
    fused = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unfuse(model)
    model.load_state_dict(taken_apart(fused, model.state_dict()))
    query = model.state_dict()["encoder.layers.0.self_attn.query.weight"]
    assert torch.equal(query, fused["encoder.layers.0.self_attn.qkv.weight"][:32])


class Windowed(nn.Module):
    """Fused attention that also does something else."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.projection, self.dropout = nn.Linear(32, 96), nn.Linear(32, 32), nn.Dropout(0.0)
        self.num_heads = 4

    def forward(self, hidden_states: Tensor) -> tuple[Tensor]:
        return (self.projection(self.qkv(hidden_states)[..., :32].roll(1, dims=1)),)


class Gridded(Windowed):
    """Fused attention over a grid."""

    def forward(self, hidden_states: Tensor, height: int) -> tuple[Tensor]:  # type: ignore[override]
        raise AssertionError


@pytest.mark.parametrize(("kind", "why"), [(Windowed, "does not compute plain attention"), (Gridded, "other inputs")])
def test_anything_but_plain_attention_is_refused_by_name(kind: type[nn.Module], why: str) -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([kind()])
    with pytest.raises(VlcompressError, match=re.escape("'layers.0' is not understood") + f".*{why}"):
        unfuse(model)

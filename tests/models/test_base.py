"""Every family answers in lower precision: weights and float inputs are cast, scores come back in float32."""

import pytest
import torch

from vlcompress.devices import Compute, placed
from vlcompress.models.base import Head, scores_of
from vlcompress.models.registry import family_named


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["lxmert", "uniter", "vilt", "resnet"])
def test_scores_in_lower_precision_are_near_those_in_float32(name: str, dtype: str) -> None:
    family, kind = family_named(name), "classes" if name == "resnet" else "answers"
    config = family.config("mini" if name == "resnet" else "tiny", vocab_size=50, feature_dim=16)
    head = Head(kind, tuple(f"label {number}" for number in range(7)))  # type: ignore[arg-type]
    model = family.build(config, head, seed=0).eval()
    inputs = family.example_inputs(config, batch=3, text=6, regions=5, seed=1)
    expected = scores_of(family, model, inputs)
    got = scores_of(family, placed(model, Compute("cpu", dtype)), inputs)  # type: ignore[arg-type]
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    assert 0 < float((got - expected).abs().max()) < 0.05 * float(expected.abs().max())

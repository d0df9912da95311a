"""Every family's forward pass is one graph without breaks, and the compiled graph computes the same."""

from typing import Any

import pytest
import torch

from vlcompress.models.base import Head
from vlcompress.models.registry import family_named

LABELS = ("red", "blue", "green")
HEADS = {
    "lxmert": [Head("answers", LABELS), Head("pair", ("false", "true"))],
    "uniter": [
        Head("answers", LABELS),
        Head("choice", ("wrong", "right")),
        Head("match"),
        Head("region"),
        Head("region", variant="mlp"),
        *(Head("pair", ("false", "true"), variant) for variant in ("paired-attn", "paired", "triplet")),
    ],
    "vilt": [Head("answers", LABELS), Head("pair", ("false", "true")), Head("match")],
    "resnet": [Head(kind, LABELS) for kind in ("classes", "boxes", "pixels")],
}


@pytest.mark.parametrize(("name", "head"), [(name, head) for name, heads in HEADS.items() for head in heads])
def test_logits_compile_as_one_graph(name: str, head: Head) -> None:
    family = family_named(name)
    sizes: dict[str, Any] = {} if name == "resnet" else {"vocab_size": 50, "feature_dim": 16}
    config = family.config("tiny", **sizes)
    model = family.build(config, head, seed=0).eval()
    inputs = family.example_inputs(config, batch=4, text=6, regions=5, seed=1)
    torch._dynamo.reset()
    compiled = torch.compile(lambda given: family.logits(model, given), fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(inputs), family.logits(model, inputs), atol=1e-6, rtol=1e-5)

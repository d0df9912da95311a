"""PyTorch behind the server: the shape that it says its scores have is the one that they have."""

from pathlib import Path

import pytest
import torch

from vlcompress.models.base import Head
from vlcompress.models.uniter.adapter import UniterFamily
from vlcompress.pruning.mask import Masks
from vlcompress.serve.engines.torch_engine import TorchEngine
from vlcompress.sparse.compile import compile_model, save_compiled
from vlcompress.sparse.timing import Effort


@pytest.mark.parametrize("head", [Head("answers", ("a", "b", "c")), Head("pair"), Head("region"), Head("match")])
def test_scores_have_the_shape_that_is_said(tmp_path: Path, head: Head) -> None:
    family = UniterFamily()
    config = family.config("tiny", vocab_size=50, feature_dim=16)
    model = family.build(config, head, seed=0).eval()
    inputs = family.example_inputs(config, batch=4, text=7, regions=5, seed=0)
    masks = Masks.keep_all({name: model.get_parameter(name) for name in family.prunable(model, "bert-tickets").names})
    effort = Effort(rounds=1, burst_s=0.0, warmup=0)
    compiled, plan = compile_model(family, model, dict(masks), (1, 1), inputs=inputs, backend="dense", effort=effort)
    save_compiled(tmp_path / "c", compiled.state_dict(), plan, family=family, config=config, head=head, extra={})
    engine = TorchEngine(tmp_path / "c", threads=torch.get_num_threads())
    (said,) = engine.outputs
    got = engine.run({name: value.numpy() for name, value in inputs.items()})["logits"]
    rows = {"batch": len(got), "regions": 5}
    assert tuple(rows.get(str(size), size) for size in said.shape) == got.shape

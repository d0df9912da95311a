"""Prices in milliseconds: of graphs that compute what a layer does, found again, and checked on the whole model."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn.functional import gelu, scaled_dot_product_attention

from vlcompress.bench.block_graphs import Block, _constants, block_graph
from vlcompress.bench.pricing import Measured, Subject
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily


def run(block: Block, units: int) -> Any:
    session = onnxruntime.InferenceSession(block_graph(block, units), providers=["CPUExecutionProvider"])
    return session.run(None, block.inputs())[0]


def test_a_feed_forward_block_computes_one() -> None:
    block = Block("neuron", 1, 8, 8, 6, batch=2, asking=3, attended=3)
    x, held = torch.from_numpy(block.inputs()["x"]), {n: torch.from_numpy(v) for n, v in _constants(block, 5).items()}
    np.testing.assert_allclose(run(block, 5), gelu(x @ held["w_up"]) @ held["w_out"], rtol=1e-4, atol=1e-5)


def test_an_attention_block_computes_one() -> None:
    block = Block("head", 4, 8, 12, 6, batch=2, asking=3, attended=5)
    given = {name: torch.from_numpy(value) for name, value in block.inputs().items()}
    held = {name: torch.from_numpy(value) for name, value in _constants(block, 3).items()}
    query, key, value = (
        (given[side] @ held[f"w_{name}"]).unflatten(-1, (3, 4)).transpose(1, 2)
        for name, side in (("query", "x"), ("key", "attended"), ("value", "attended"))
    )
    context = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    np.testing.assert_allclose(run(block, 3), context @ held["w_out"], rtol=1e-4, atol=1e-5)


def made(size: str) -> Subject:
    family = LxmertFamily()
    config = family.config(size, vocab_size=50, feature_dim=16)
    model = family.build(config, Head("answers", ("a", "b", "c")), seed=0).eval()
    inputs = family.example_inputs(config, batch=4, text=7, regions=5, seed=0)
    return Subject(family, config, model, inputs)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return made("tiny")


def test_each_call_of_a_layer_is_a_block_of_what_it_sees() -> None:
    """LXMERT's cross-attention is one layer, called for words and for regions; in the last one nobody reads regions."""
    blocks = made("small").blocks
    first, last = (blocks[f"lxmert.encoder.x_layers.{at}.visual_attention.output.dense.weight"] for at in (0, 1))
    assert {(one.asking, one.attended) for one in first} == {(7, 5), (5, 7)}
    assert [one.attended for one in last] == [5]
    assert blocks["lxmert.encoder.x_layers.1.visn_output.dense.weight"] == []
    assert all(block.batch == 4 for of_one in blocks.values() for block in of_one)


def test_measurements_are_kept_for_a_run_that_is_continued(subject: Subject, tmp_path: Path) -> None:
    said: list[str] = []
    first = Measured(subject, 1, tmp_path, said.append)
    prices = first.prices
    fewest = prices.fewest(prices.lists)
    assert prices.dense > prices.total(fewest) > 0
    assert first.measured(fewest) == pytest.approx(prices.total(fewest), rel=1e-6)
    again = Measured(subject, 1, tmp_path, said.append)
    assert again.prices == prices
    assert again.measured(fewest) == first.measured(fewest)
    assert len(said) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert Measured(subject, 2, tmp_path, said.append)._path != again._path

"""Bound inputs and outputs give what a plain call gives: on the CPU the binding is the same, and so are the answers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from tests.export.graphs import exporter_like_graph
from vlcompress.export import runtime
from vlcompress.export.binding import SHAPES, BoundSession
from vlcompress.export.runtime import placement, provider_for


@pytest.fixture
def model() -> bytes:
    """Return a small graph with a free batch axis."""
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    data: bytes = ir.to_proto(exporter_like_graph(weight, torch.ones(16))).SerializeToString()
    return data


@pytest.fixture
def session(model: bytes) -> Any:
    """Open it."""
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def feed(session: Any, rows: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {one.name: [size if isinstance(size, int) else rows for size in one.shape] for one in session.get_inputs()}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_answers_are_those_of_the_session_at_every_shape_and_again(session: Any) -> None:
    bound = BoundSession(session, "cpu")
    for rows, seed in ((1, 0), (3, 1), (1, 2), (3, 3)):
        inputs = feed(session, rows, seed)
        for got, expected in zip(bound.run(None, inputs), session.run(None, inputs), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert len(bound._bound) == 2
    assert bound.get_providers() == ["CPUExecutionProvider"]


def test_an_answer_stays_when_the_next_one_is_computed(session: Any) -> None:
    bound, inputs = BoundSession(session, "cpu"), [feed(session, 2, seed) for seed in range(2)]
    first = bound.run(None, inputs[0])[0]
    before = first.copy()
    bound.run(None, inputs[1])
    np.testing.assert_array_equal(first, before)


def test_views_are_copied_whole_and_old_shapes_are_let_go(session: Any) -> None:
    bound = BoundSession(session, "cpu")
    wide = {name: value[::2] for name, value in feed(session, 4).items()}
    np.testing.assert_array_equal(bound.run(None, wide)[0], session.run(None, wide)[0])
    for rows in range(1, SHAPES + 5):
        bound.run(None, feed(session, rows))
    assert len(bound._bound) == SHAPES


def test_threads_do_not_mix_their_inputs(session: Any) -> None:
    bound, inputs = BoundSession(session, "cpu"), [feed(session, 4, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda one: bound.run(None, one)[0], inputs))
    for one, found in zip(inputs, got, strict=True):
        np.testing.assert_array_equal(found, session.run(None, one)[0])


def test_placement_counts_the_nodes_of_each_provider(model: bytes, session: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(model)
    found = placement(file, "cpu", feed(session, 2))
    assert list(found) == ["CPUExecutionProvider"]
    assert sum(found["CPUExecutionProvider"].values()) >= 1
    assert list(tmp_path.iterdir()) == [file], "the profile is not left behind"


def test_a_file_runs_where_it_was_exported_for_or_says_that_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(runtime, "available", lambda names=None: ["cpu"])
    assert provider_for(None, {"provider": "cpu"}, told.append) == "cpu"
    assert provider_for(None, {}, told.append) == "cpu"
    assert not told
    assert provider_for(None, {"provider": "cuda,use_tf32=1"}, told.append) == "cpu"
    (said,) = told
    assert (
        said == "warning: the file was exported for provider 'cuda,use_tf32=1', which is not here: it runs on the CPU"
    )
    monkeypatch.setattr(runtime, "available", lambda names=None: ["cpu", "cuda"])
    assert provider_for(None, {"provider": "cuda,use_tf32=1"}, told.append) == "cuda,use_tf32=1"
    assert provider_for("cpu", {"provider": "cuda"}, told.append) == "cpu"

"""The server opens files as bench and export do, and knows which of them may merge requests."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.serve.conftest import Client, client_of, write_model, write_words
from vlcompress.export import runtime
from vlcompress.serve.app import create_app
from vlcompress.serve.engines.onnx_engine import OnnxEngine
from vlcompress.serve.settings import ModelSpec, Settings


@pytest.mark.parametrize(("native_us", "wanted"), [(20.0, "float32"), (40.0, "off")])
def test_the_native_kernel_runs_where_the_export_measured_it_to_be_faster(
    native_us: float, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(runtime, "_take_native", lambda options, native: asked.append(native))
    timings = {"off": {"us": 30.0}, "float32": {"us": native_us}}
    (tmp_path / "manifest.json").write_text(json.dumps({"native": {"timings": timings}}))
    OnnxEngine(write_words(tmp_path / "model.onnx"), threads=1, sessions=1)
    assert asked == [wanted]


@pytest.mark.parametrize("saturates", [True, False])
def test_eight_bit_weights_are_widened_on_processors_without_vnni_alone(
    saturates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    opened = onnxruntime.InferenceSession

    def spied(model: Any, options: Any, **more: Any) -> Any:
        try:
            asked.append(options.get_session_config_entry("session.x64quantprecision") == "1")
        except RuntimeError:  # it was not set
            asked.append(False)
        return opened(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spied)
    monkeypatch.setattr(runtime, "saturates", lambda: saturates)
    OnnxEngine(write_words(tmp_path / "model.onnx"), threads=1, sessions=1)
    assert asked == [saturates]


def write_int8(path: Path) -> Path:
    """Write y = x W with x quantised as it comes, one scale for all of its rows."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["bytes", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["bytes", "w", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.int8), "w")
    x, y = (value(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y"))
    return write_model(path, nodes, [x], [y], [weight])


def write_pairs(path: Path) -> Path:
    """Write a model whose answer is about two rows: y [pairs, 8] is one row beside the next."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Reshape", ["x", "sizes"], ["y"])]
    x, y = value("x", TensorProto.FLOAT, ["batch", 4]), value("y", TensorProto.FLOAT, ["pairs", 8])
    return write_model(path, nodes, [x], [y], [numpy_helper.from_array(np.array([-1, 8]), "sizes")])


def asked_together(path: Path, requests: list[Any]) -> list[Any]:
    """Send requests to a server of one session at the same moment; give their outputs."""
    app = create_app(Settings((ModelSpec("m", path),), threads=1, sessions=1, batch_window_ms=50.0))

    async def ask() -> list[Any]:
        async with client_of(app) as client:
            bodies = [
                {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(np.shape(rows)), "data": rows}]}
                for rows in requests
            ]
            calls = (client.post("/v2/models/m/infer", json=body) for body in bodies)
            found = [answer.json()["outputs"][0] for answer in await asyncio.gather(*calls)]
        return [np.reshape(output["data"], output["shape"]) for output in found]

    return asyncio.run(ask())


def test_with_int8_the_requests_of_others_do_not_change_an_answer(tmp_path: Path) -> None:
    path = write_int8(tmp_path / "model.onnx")
    mine, huge = [[0.1, -0.2, 0.3, 0.4]], [[4000.0, -3000.0, 1.0, 2.0]]
    (alone,) = asked_together(path, [mine])
    assert np.abs(alone - mine).max() < 0.005
    together = asked_together(path, [huge, mine, huge])[1]
    assert np.array_equal(alone, together)
    assert OnnxEngine(write_words(tmp_path / "words.onnx"), threads=1, sessions=1).rows_apart


def test_statements_about_two_images_stay_with_who_asked(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "model.onnx")
    requests = [(np.arange(8.0).reshape(2, 4) + 10 * index).tolist() for index in range(3)]
    found = asked_together(path, requests)
    for rows, answer in zip(requests, found, strict=True):
        assert np.array_equal(answer, np.reshape(rows, (1, 8)))


def test_half_a_pair_is_a_mistake_of_who_asks(tmp_path: Path) -> None:
    app = create_app(Settings((ModelSpec("m", write_pairs(tmp_path / "model.onnx")),), threads=1, sessions=1))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    refused = Client(app).post("/v2/models/m/infer", json={"inputs": [tensor]})
    assert refused.status_code == 400
    assert "the model cannot run on these inputs" in refused.json()["error"]

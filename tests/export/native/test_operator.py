"""The operator inside ONNX Runtime; needs its C header (VLCOMPRESS_ORT_INCLUDE names a folder for it)."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vlcompress.errors import VlcompressError
from vlcompress.export import onnx as exporter
from vlcompress.export import runtime
from vlcompress.export.manifest import GraphSpeed
from vlcompress.export.native.build import Built, build, find_headers
from vlcompress.export.native.library import (
    BFLOAT16_SETS,
    Floats,
    NativeLibrary,
    PanelWeight,
    bfloat16,
    int8_product,
    pack_columns,
    round_weight,
)
from vlcompress.sparse.compile import compile_model
from vlcompress.sparse.timing import Effort


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("VLCOMPRESS_ORT_INCLUDE")
    try:
        include = find_headers(Path(given) if given else None)
    except VlcompressError:
        pytest.skip("no ONNX Runtime header")
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    return build(tmp_path_factory.mktemp("native") / "n", ort_include=include).library


def weight(outputs: int, inputs: int) -> tuple[PanelWeight, Floats]:
    random = np.random.default_rng(0)
    keep = random.random((outputs // 16, inputs)) < 0.4
    dense = random.standard_normal((outputs, inputs), dtype=np.float32) * np.repeat(keep, 16, axis=0)
    return pack_columns(dense, keep, 16), dense


def normal(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def model(packed: PanelWeight, bias: Floats, *, name: str, residual: bool = False, **attributes: Any) -> bytes:
    """One node: x [batch, tokens, K] -> y [batch, tokens, N]."""
    outputs, inputs = packed.shape
    scales = {} if packed.scales is None else {"s": packed.scales}
    constants = {"w": packed.values, "i": packed.columns, "p": packed.starts, **scales, "b": bias}
    names = ["x", *constants, *(["r"] if residual else [])]
    found = {"N": outputs, "K": inputs, "h": packed.height, "activation": "none", **attributes}
    node = helper.make_node(name, names, ["y"], domain="vlcompress", **found)
    sizes = {"x": inputs, "r": outputs, "y": outputs}

    def value(key: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(key, TensorProto.FLOAT, ["batch", "tokens", sizes[key]])

    graph = helper.make_graph(
        [node],
        "one",
        [value(key) for key in names if key in sizes],
        [value("y")],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("vlcompress", 1)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    return data


def run(library: Path, data: bytes, feed: Mapping[str, Floats], threads: int = 1) -> Floats:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    y: Floats = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, dict(feed))[0]
    return y


@pytest.mark.parametrize("name", ["BlockSparseLinear", "BlockSparseLinear_1", "BlockSparseLinear_255"])
@pytest.mark.parametrize("threads", [1, 2])
def test_it_takes_over_the_node(library: Path, name: str, threads: int) -> None:
    packed, dense = weight(64, 48)
    bias = normal(64)
    data = model(packed, bias, name=name)
    for shape in ((1, 20), (3, 7), (8, 36), (1, 1)):
        x = normal(*shape, 48)
        np.testing.assert_allclose(run(library, data, {"x": x}, threads), x @ dense.T + bias, atol=2e-5)


def test_residual_and_activation(library: Path) -> None:
    packed, dense = weight(64, 48)
    bias, x, residual = normal(64), normal(2, 9, 48), normal(2, 9, 64)
    data = model(packed, bias, name="BlockSparseLinear", residual=True, activation="relu")
    expected = np.maximum(x @ dense.T + bias + residual, 0)
    np.testing.assert_allclose(run(library, data, {"x": x, "r": residual}), expected, atol=2e-5)


def test_an_empty_batch(library: Path) -> None:
    packed, _ = weight(64, 48)
    assert run(library, model(packed, normal(64), name="BlockSparseLinear"), {"x": normal(0, 5, 48)}).shape == (
        0,
        5,
        64,
    )


def test_bfloat16_by_a_session_option(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both precisions in one process, as sessions ask for them."""
    packed, dense = weight(64, 48)
    bias, x = normal(64), normal(2, 9, 48)
    data = model(packed, bias, name="BlockSparseLinear")
    if not set(BFLOAT16_SETS) & set(NativeLibrary(library).instruction_sets()):
        pytest.skip("this processor multiplies no bfloat16")
    monkeypatch.setattr(runtime, "built", lambda: Built(library, "c++", onnxruntime=True))
    exact, rounded = (
        runtime.session_from_bytes(data, threads=1, native=precision).run(None, {"x": x})[0]
        for precision in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(exact, x @ dense.T + bias, atol=2e-5)
    np.testing.assert_allclose(rounded, bfloat16(x) @ bfloat16(dense).T + bias, atol=2e-5)
    assert np.abs(rounded - exact).max() > 1e-4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("allowed", ["", "avx2", "base"])
def test_int8_nodes(library: Path, monkeypatch: pytest.MonkeyPatch, threads: int, residual: bool, allowed: str) -> None:
    """In a process of their own, since the first session of a process chooses the instructions."""
    exact, dense = weight(64, 48)
    values, scales = round_weight(dense)
    packed = PanelWeight(exact_int8(exact, scales), exact.columns, exact.starts, exact.shape, 16, scales)
    bias = normal(64)
    data = model(packed, bias, name="BlockSparseLinearInt8_3", residual=residual, activation="relu")
    monkeypatch.setenv("VLCOMPRESS_INSTRUCTIONS", allowed)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for shape in ((1, 20), (3, 7), (8, 36), (0, 4)):
            x, r = normal(*shape, 48), normal(*shape, 64)
            feed = {"x": x, "r": r} if residual else {"x": x}
            got = pool.submit(run, library, data, feed, threads).result()
            product = int8_product(x.reshape(-1, 48), values, scales).reshape(*shape, 64)
            expected = np.maximum(product + bias + (r if residual else 0), 0)
            np.testing.assert_allclose(got, expected, atol=2e-5)


def exact_int8(packed: PanelWeight, scales: Floats) -> npt.NDArray[np.int8]:
    """Round packed values by the scale of their outputs."""
    panels = np.repeat(np.arange(len(packed.starts) - 1), np.diff(packed.starts))
    return np.rint(packed.values.reshape(-1, 16) / scales.reshape(-1, 16)[panels]).astype(np.int8).reshape(-1)


def test_int8_scales_must_fit(library: Path) -> None:
    packed, _ = weight(64, 48)
    values = np.zeros(packed.values.shape, dtype=np.int8)
    wrong = PanelWeight(values, packed.columns, packed.starts, packed.shape, 16, np.ones(63, dtype=np.float32))
    with pytest.raises(Exception, match="S must have N values"):
        run(library, model(wrong, normal(64), name="BlockSparseLinearInt8"), {"x": normal(1, 2, 48)})


def test_an_unknown_precision(library: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("vlcompress.precision", "float8")
    with pytest.raises(Exception, match="must be float32 or bfloat16"):
        options.register_custom_ops_library(str(library))


def test_bfloat16_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = weight(64, 48)
    monkeypatch.setattr(runtime, "built", lambda: None)
    with pytest.raises(VlcompressError, match="run `vlcompress native build`"):
        runtime.session_from_bytes(model(packed, normal(64), name="B"), threads=1, native="bfloat16")


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"activation": "silu"}, "activation must be"),
        ({"h": 32}, "values for every column|one panel for every"),
        ({"N": 80}, "one panel for every|B must have N"),
        ({"K": 40}, "a column is not one of x"),
    ],
)
def test_unsound_nodes_are_refused_when_the_model_is_loaded(
    library: Path, attributes: dict[str, Any], why: str
) -> None:
    packed, _ = weight(64, 48)
    with pytest.raises(Exception, match=why):
        run(library, model(packed, normal(64), name="BlockSparseLinear", **attributes), {"x": normal(1, 2, 48)})


@pytest.mark.parametrize(("there", "kind"), [(True, "float32"), (True, "int8"), (False, "float32")])
def test_an_exported_file_is_checked_with_and_without_the_kernel(
    library: Path, ticket_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, kind: str
) -> None:
    found = Built(library, "c++", onnxruntime=True) if there else None
    monkeypatch.setattr(runtime, "built", lambda: found)
    monkeypatch.setattr(exporter, "built", lambda: found)
    ticket, quick = ticket_of((16, 16), 0.4), Effort(rounds=1, burst_s=0.0, warmup=0)
    compiled, _ = compile_model(ticket.family, ticket.model, ticket.masks, (16, 16), inputs=ticket.inputs, effort=quick)
    monkeypatch.setattr(exporter, "_faster", always_lowered)
    manifest = exporter.export_onnx(
        ticket.family, compiled, tmp_path / "o", [ticket.inputs], config=ticket.config, head=ticket.head, effort=quick,
        style=exporter.style(quantize="int8" if kind == "int8" else None), score=lambda _: 0.5, reference=0.5,
    )  # fmt: skip
    nodes = onnx.load(tmp_path / "o" / "model.onnx").graph.node
    packed = {node.op_type.partition("_")[0] for node in nodes if node.domain == "vlcompress"}
    assert packed == {"BlockSparseLinearInt8" if kind == "int8" else "BlockSparseLinear"}
    if not there:
        assert manifest.native is None
        return
    assert manifest.native is not None
    assert manifest.native.parity["random shapes"].max_rel_error < (0.05 if kind == "int8" else 1e-4)
    assert set(manifest.native.timings) == {"off", kind}
    assert (manifest.native.task_score is not None) == (kind == "int8")


@pytest.mark.parametrize(
    ("kind", "us", "taken"), [("int8", 5.0, "int8"), ("float32", 5.0, "float32"), ("int8", 20.0, "off")]
)
def test_sessions_take_what_the_manifest_says_is_faster(tmp_path: Path, kind: str, us: float, taken: str) -> None:
    timings = {"off": {"us": 10.0}, kind: {"us": us}}
    (tmp_path / "manifest.json").write_text(json.dumps({"native": {"timings": timings}}))
    assert runtime._measured(tmp_path / "model.onnx") == (taken, True)


def always_lowered(scratch: Path, *rest: object) -> tuple[Path, GraphSpeed]:
    return scratch / "lowered.onnx", GraphSpeed("lowered", {}, (), {}, 1)

"""Sessions run where they were asked to run, and files are written for the runtime that must read them."""

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
import pytest
import torch

from tests.export.graphs import exporter_like_graph
from vlcompress.errors import VlcompressError
from vlcompress.export import runtime
from vlcompress.export.runtime import open_session, require_provider, session_from_bytes
from vlcompress.export.target import Target, target


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_falls_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on with the CPU, without an exception."""
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    data = ir.to_proto(exporter_like_graph(torch.ones(16, 16), torch.ones(16))).SerializeToString()
    with pytest.raises(VlcompressError, match=r"provider 'cuda' was asked for, but .* on CPUExecutionProvider"):
        session_from_bytes(data, threads=1, provider="cuda")


def test_a_file_whose_weights_cannot_be_widened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **more: Any) -> Any:
        raise RuntimeError("graph_utils::AddInitializerWithOrtValue: Attempt to replace the existing tensor")

    monkeypatch.setattr(onnxruntime, "InferenceSession", failing)
    with pytest.raises(VlcompressError, match="8-bit products saturate, and ONNX Runtime cannot widen"):
        session_from_bytes(b"", threads=1)


def test_unknown_providers_and_those_that_are_not_installed_list_what_is_there() -> None:
    assert require_provider("cpu") == "CPUExecutionProvider"
    with pytest.raises(VlcompressError, match="unknown provider 'npu': allowed are cpu, cuda, tensorrt"):
        require_provider("npu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(VlcompressError, match="it has cpu"):
            require_provider("cuda")


def test_a_target_is_the_newest_that_everybody_reads_unless_told_otherwise() -> None:
    assert target() == Target(20, 10)
    assert target(runtime="1.20") == target(runtime="1.20.1") == Target(20, 10)
    assert target(runtime="1.16") == Target(19, 9)
    assert target(runtime="1.15") == Target(18, 9)
    assert target(runtime="1.14") == Target(18, 8)
    assert target(runtime="1.31.1") == Target(20, 10)
    assert target(22) == Target(22, 10)


@pytest.mark.parametrize("said", ["1.2", "latest", "0.9", "1"])
def test_unknown_releases_list_the_known_ones(said: str) -> None:
    with pytest.raises(VlcompressError, match=rf"unknown onnxruntime release '{said}': allowed are 1\.14"):
        target(runtime=said)


@pytest.mark.parametrize(
    ("manifest", "wanted"),
    [
        (None, "off"),
        ({"native": None}, "off"),
        ({"native": {"timings": {"off": {"us": 20.0}, "float32": {"us": 30.0}}}}, "off"),
        ({"native": {"timings": {"off": {"us": 30.0}, "float32": {"us": 20.0}}}}, "float32"),
    ],
)
def test_the_native_kernel_runs_where_the_export_measured_it_to_be_faster(
    manifest: dict[str, object] | None, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    opened: list[object] = []
    monkeypatch.setattr(runtime, "_session", lambda *arguments, **_: opened.append(arguments[-1]))
    open_session(model, threads=1)
    open_session(model, threads=1, native="bfloat16")
    assert opened == [wanted, "bfloat16"]


@pytest.mark.parametrize(
    ("manifest", "unfused"),
    [
        (None, True),
        ({}, True),
        ({"speed": {"disabled_optimizers": []}}, False),
        ({"speed": {"disabled_optimizers": [runtime.SKIP_LAYER_NORM]}}, True),
    ],
)
def test_a_file_is_opened_as_its_export_measured_to_be_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: dict[str, Any] | None, unfused: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(runtime, "_session", lambda model, threads, skip, *rest, **more: asked.append(skip))
    (tmp_path / "model.onnx").touch()
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    open_session(tmp_path / "model.onnx", threads=1)
    open_session(tmp_path / "model.onnx", threads=1, disable_skip_layer_norm=not unfused)
    assert asked == [unfused, not unfused]

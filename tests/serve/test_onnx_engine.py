"""The server opens files as bench and export do."""

import json
from pathlib import Path

import pytest

from tests.serve.conftest import write_words
from vlcompress.export import runtime
from vlcompress.serve.engines.onnx_engine import OnnxEngine


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

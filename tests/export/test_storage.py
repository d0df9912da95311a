"""Files hold every weight once, and weights beyond the limit of protobuf lie beside the file."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch

from tests.export.graphs import exporter_like_graph
from vlcompress.export.runtime import open_session
from vlcompress.export.storage import data_file, save_apart, save_onnx, size
from vlcompress.export.verify import check_graph

FEEDS = {
    "x": np.random.default_rng(0).standard_normal((2, 3, 64), dtype=np.float32),
    "f": np.random.default_rng(1).standard_normal((2, 64), dtype=np.float32),
}


def graph() -> ir.Model:
    return exporter_like_graph(torch.randn(128, 64, generator=torch.Generator().manual_seed(0)), torch.ones(128))


def test_one_file_is_what_onnx_itself_would_write(tmp_path: Path) -> None:
    save_apart(graph(), tmp_path / "apart.onnx")
    save_onnx(tmp_path / "apart.onnx", tmp_path / "model.onnx")
    assert not data_file(tmp_path / "model.onnx").exists()
    check_graph(tmp_path / "model.onnx")
    expected = ir.to_proto(graph())
    got = onnx.load(tmp_path / "model.onnx")
    for one, want in zip(got.graph.initializer, expected.graph.initializer, strict=True):
        assert one.name == want.name
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(want))
        assert not one.external_data
    del got.graph.initializer[:], expected.graph.initializer[:]
    assert got == expected


def test_above_the_limit_the_weights_lie_beside_the_file(tmp_path: Path) -> None:
    save_apart(graph(), tmp_path / "apart.onnx")
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "model.onnx"
    save_onnx(tmp_path / "apart.onnx", path, limit=1000)
    check_graph(path)
    assert data_file(path).stat().st_size >= 2 * 4 * 128 * 64
    assert size(path) == path.stat().st_size + data_file(path).stat().st_size
    whole = tmp_path / "whole.onnx"
    save_onnx(tmp_path / "apart.onnx", whole)
    got, want = (open_session(file, threads=1).run(None, FEEDS) for file in (path, whole))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)

"""The script that measures forms of a whole model: graphs that were checked, and checked again where they are timed."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import onnx_cpu, onnx_parallel, onnx_rivals
from bench.onnx_tables import cpu_table, parallel_table, rivals_table
from vlcompress.errors import VerificationError
from vlcompress.sparse.timing import Effort


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the tiny model, dense and pruned by half to smaller layers."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_cpu, "SPARSITIES", (50,))
        patch.setattr(onnx_cpu, "FORMS", [form for form in onnx_cpu.FORMS if form[0] == "neuron+head"])
        patch.setattr(onnx_cpu, "ZEROS", {})
        onnx_cpu.build(folder, "tiny")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_cpu, "GROUPS", ((50, 1),))
    monkeypatch.setattr(onnx_cpu, "EFFORT", {1: Effort(2, 0.0, 0), 8: Effort(2, 0.0, 0)})
    monkeypatch.setattr(onnx_rivals, "GROUPS", ((50, 1),))
    monkeypatch.setattr(onnx_rivals, "ROUNDS", 2)
    monkeypatch.setattr(onnx_parallel, "SPARSITY", 50)
    monkeypatch.setattr(onnx_parallel, "SECONDS", {1: 0.02, 8: 0.02})


def test_every_form_is_measured_beside_dense_and_not_twice(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx_cpu.measure_all(work, 1.0, "tiny")
    record = json.loads(onnx_cpu.part(work, 50, 1, 8).read_text())
    assert set(record["variants"]) == {
        "dense",
        "stock dense",
        "dense, int8",
        "heads and neurons",
        "heads and neurons, int8",
    }
    assert record["variants"]["dense"]["speedup"]["dense"]["value"] == 1.0
    assert record["variants"]["heads and neurons"]["rel_error"] < 1e-4 < record["variants"]["dense, int8"]["rel_error"]
    assert "50-t1-b1.json" in capsys.readouterr().out
    onnx_cpu.measure_all(work, 1.0, "tiny")
    assert capsys.readouterr().out == ""
    assert "| heads and neurons | 50 | 8 | 1 |" in cpu_table([record], {})


def test_no_time_left_measures_nothing(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_cpu, "part", lambda *_: tmp_path / "part.json")
    onnx_cpu.measure_all(work, 0.0, "tiny")
    assert not (tmp_path / "part.json").exists()


def test_a_graph_that_changed_since_it_was_checked_is_not_timed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.load(work / "shrunk-50.npy")
    np.save(work / "shrunk-50.npy", right + 1.0)
    try:
        with pytest.raises(VerificationError, match="'heads and neurons' no longer computes what was checked"):
            onnx_cpu.Group(work, 50, 1, "tiny").measured(1)
    finally:
        np.save(work / "shrunk-50.npy", right)


def test_rivals_take_turns_and_one_that_errs_is_left_out(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only our own environment is there, so only ONNX Runtime is compared with itself."""
    (work / "standard-50.onnx").write_bytes((work / "dense.onnx").read_bytes())  # the wrong weights
    np.save(work / "standard-50.npy", np.load(work / "dense.npy") + 1.0)
    found = onnx_rivals.measure(work, 50, 1, "tiny", only="ours")
    assert [record["batch"] for record in found] == [1, 8]
    assert set(found[0]["runtimes"]) == {*onnx_rivals.REFERENCES, "ours, heads and neurons"}
    assert found[1]["runtimes"]["ours, heads and neurons"]["rel_error"] < 1e-4
    assert "ours, 192x16 at batch 8 is left out: its scores differ" in capsys.readouterr().out
    assert "| ours, heads and neurons |" in rivals_table(found, {})


def test_a_runtime_that_ends_is_reported() -> None:
    with pytest.raises(ChildProcessError, match="ended"):
        onnx_rivals.Rival([sys.executable, "-c", "print('no answer')"])


def test_folded_shapes_are_fixed_and_compute_the_same(work: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    inputs = onnx_cpu.inputs_of(1, "tiny")
    onnx_rivals.fold_shapes(work / "dense.onnx", tmp_path / "folded.onnx", inputs)
    graph = onnx.load(tmp_path / "folded.onnx")
    assert [used.domain for used in graph.opset_import] == [""]
    assert not {node.op_type for node in graph.graph.node} & {"Shape", "Expand", "Range"}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # they were run already
    session = onnxruntime.InferenceSession(tmp_path / "folded.onnx", options, providers=["CPUExecutionProvider"])
    scores = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    np.testing.assert_allclose(scores, np.load(work / "dense.npy")[:1], rtol=0, atol=1e-5)


def test_sessions_against_threads(work: Path) -> None:
    record = onnx_parallel.measure_all(work, "tiny")
    assert {(one["form"], one["batch"]) for one in record["records"]} >= {("dense", 1), ("heads and neurons, int8", 8)}
    assert all(one["rows_per_s"]["a session a core"] > 0 for one in record["records"])
    assert "| dense | - | 1 |" in parallel_table(record, {})


def test_a_call_of_two_threads_counts_both() -> None:
    done: list[int] = []

    def call(index: int) -> Any:
        return lambda: (torch.zeros(1), done.append(index))

    onnx_parallel.seconds_of_a_call([call(0), call(1)], 0.02)
    assert set(done) == {0, 1}

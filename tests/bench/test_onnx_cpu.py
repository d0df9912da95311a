"""The script that measures forms of a whole model: graphs that were checked, and checked again where they are timed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import onnx_cpu
from bench.onnx_cpu import cpu_table
from vlcompress.bench.environment import environment
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


SCORES = {("dense", 0, "fp32"): 0.6, ("neuron+head", 70, "fp32"): 0.45}


def ratio(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def row(pattern: str, precision: str, value: float) -> dict[str, Any]:
    return {
        "pattern": pattern,
        "precision": precision,
        "latency": {"p50_ms": 12.34},
        "speedup": {"dense": ratio(value), "stock dense": ratio(value + 1)},
        "load_s": 0.5,
        "bytes": 3e6,
        "rel_error": 1e-6,
    }


def part(variants: dict[str, Any]) -> dict[str, Any]:
    about = {"sparsity": 70, "threads": 1, "batch": 8, "rounds": 9, "environment": environment()}
    return {**about, "variants": variants}


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_speed_has_its_goal_and_its_score_beside_it() -> None:
    found = part(
        {
            "dense": row("dense", "fp32", 1.0),
            "heads and neurons": row("neuron+head", "fp32", 3.4),
            "192x16": row("block:192x16", "fp32", 2.9),
        }
    )
    text = cpu_table([found], SCORES)
    assert f"{environment()['cores']} cores" in text
    assert "9 at batch 8" in text
    assert "| dense |" not in text
    reached = ["heads and neurons", "70", "8", "1", "3.40 (3.30-3.50)", "3.3", "yes", "4.40 (4.30-4.50)", "12.3"]
    assert cells(text, "heads and neurons") == [*reached, "1e-06", "0.5", "3", "45.0 of 60.0"]
    assert cells(text, "192x16")[5:7] == ["3", "no"]
    assert cells(text, "192x16")[-1] == "not measured"


def test_nothing_measured() -> None:
    assert cpu_table([], SCORES) == "Nothing was measured yet.\n"

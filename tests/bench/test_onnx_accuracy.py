"""Scores of exported precisions, and faults that are planted to see what the gate catches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import onnx_accuracy
from bench.onnx_accuracy import accuracy_table, read_scores, recipe_of, score_cell
from vlcompress.bench.environment import environment
from vlcompress.recipe import Recipe


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train, export and score the tiny dense model in two precisions."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_accuracy, "PATTERNS", ("neuron+head",))
        patch.setattr(onnx_accuracy, "ROUNDS", {})
        patch.setattr(onnx_accuracy, "recipe_of", one_round)
        patch.setattr(onnx_accuracy, "ORDER", ("int8", "fp32"))
        onnx_accuracy.measure_all(folder, "tiny", folder / "accuracy.json")
        before = (folder / "accuracy.json").read_bytes()
        onnx_accuracy.measure_all(folder, "tiny", folder / "accuracy.json")
    assert (folder / "accuracy.json").read_bytes() == before, "what is recorded is kept"
    found: dict[str, Any] = json.loads(before)
    return found


def one_round(pattern: str, size: str) -> Recipe:
    return recipe_of(pattern, size).override(pruning={"rounds": 1})


def test_every_precision_is_scored(record: dict[str, Any]) -> None:
    rows = {one["precision"]: one for one in record["records"]}
    assert set(rows) == {"fp32", "int8", "bf16"}
    for one in rows.values():
        assert (one["pattern"], one["percent"], one["refused"]) == ("dense", 0, None)
        assert 0 <= one["score"] <= 1
    assert rows["fp32"]["score"] == pytest.approx(rows["fp32"]["pytorch"], abs=1e-6)
    errors = {name: one["parity"]["samples"]["max_rel_error"] for name, one in rows.items()}
    assert errors["fp32"] < 1e-4 < min(errors["int8"], errors["bf16"])


def test_faults_change_what_a_file_computes(record: dict[str, Any]) -> None:
    seen = {one["fault"]: one["parity"]["samples"]["max_rel_error"] for one in record["faults"]}
    assert set(seen) == set(onnx_accuracy.FAULTS)
    right = seen.pop("none")
    assert all(error > right for error in seen.values()), seen
    assert "| dense | - | weights of 4 bits |" in accuracy_table(record)


def test_planting_changes_what_it_names_and_nothing_else() -> None:
    weights: dict[str, Any] = {
        "a.int8": np.array([[127, -64], [7, 9]], np.int8),
        "a.scale": np.array([1.0, 0.5], np.float32),
        "b.int8": np.array([[1]], np.int8),
        "b.scale": np.array([3.0], np.float32),
    }
    for name, changed in {
        "weights of 4 bits": {"a.int8": [[112, -64], [0, 16]], "b.int8": [[0]]},
        "one scale for a layer": {"a.int8": [[127, -32], [7, 4]], "a.scale": [1.0, 1.0]},
        "scales of one layer doubled": {"a.scale": [2.0, 1.0]},
        "weights of one layer shifted by an input": {"a.int8": [[7, 9], [127, -64]]},
    }.items():
        planted = {key: value.copy() for key, value in weights.items()}
        onnx_accuracy.FAULTS[name](planted)
        for key, value in planted.items():
            assert value.tolist() == changed.get(key, weights[key].tolist()), (name, key)


def test_what_the_gate_refuses_is_recorded_without_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise onnx_accuracy.VerificationError("too far from PyTorch")

    class Bare:
        family = model = ticket = None
        config = head = score = None
        ticket = type("Ticket", (), {"config": None, "head": None})

        def samples(self) -> list[Any]:
            return []

    monkeypatch.setattr(onnx_accuracy, "export_onnx", refuse)
    found = onnx_accuracy._exported(Bare(), onnx_accuracy.Style("int8"), tmp_path, 0.5)  # type: ignore[arg-type]
    assert found == {"score": None, "refused": "too far from PyTorch"}


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_scores_of_the_small_model_stand_for_those_of_the_published_one(tmp_path: Path) -> None:
    one = {"percent": 50, "precision": "fp32", "score": 0.5}
    refused = {**one, "percent": 70, "score": None}
    records = [{**one, "pattern": "block:32x16"}, {**refused, "pattern": "block:32x16"}]
    (tmp_path / "accuracy.json").write_text(json.dumps({"records": records}))
    assert read_scores(tmp_path / "accuracy.json") == {("block:192x16", 50, "fp32"): 0.5}
    assert read_scores(tmp_path / "none.json") == {}
    assert score_cell({("dense", 0, "fp32"): 0.6}, "dense", 70, "fp32") == "60.0 of 60.0", "dense has no sparsity"


def test_accuracy_shows_what_was_refused_and_what_saw_a_fault() -> None:
    parity = {"max_rel_error": 0.03, "answer_agreement": 0.99}
    one = {"pattern": "dense", "percent": 0, "precision": "fp32", "score": 0.6, "pytorch": 0.6, "examples": 10}
    worse = {"samples": {**parity, "answer_agreement": 0.5}, "random shapes": {**parity, "max_rel_error": 0.5}}
    refused = {**one, "pattern": "neuron", "precision": "int8", "score": None, "refused": "too far"}
    fault = {**one, "fault": "a mistake", "parity": worse, "refused_by": ["score"], "pattern": "head"}
    record = {
        "task": "lxmert vqa tiny",
        "records": [{**one, "refused": None, "parity": {"samples": parity}}, refused],
        "faults": [fault, {**fault, "pattern": "ffn", "refused_by": []}],
        "environment": environment(),
    }
    text = accuracy_table(record)
    assert cells(text, "dense") == ["dense", "-", "fp32", "60.00", "100.0 %", "60.00", "3.0e-02", "0.990", "no"]
    assert cells(text, "neuron")[3:] == ["-", "-", "60.00", "-", "-", "too far"]
    assert cells(text, "head")[5:] == ["5.0e-01", "0.500", "score"]
    assert cells(text, "ffn")[-1] == "nothing"

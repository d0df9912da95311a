"""Scores of exported precisions, and faults that are planted to see what the gate catches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import onnx_accuracy
from bench.onnx_accuracy import recipe_of
from bench.onnx_tables import accuracy_table
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

"""Tables of recorded speeds: no speed without a score beside it, no goal without what was reached."""

import json
from pathlib import Path
from typing import Any

from bench.onnx_tables import accuracy_table, cpu_table, read_scores, rivals_table, score_cell

ENVIRONMENT = {
    "time": "2026-01-01T00:00:00+00:00",
    "cpu": "A processor",
    "cores": 2,
    "memory_gb": 16.0,
    "os": "Linux 6",
    "python": "3.11",
    "packages": {"onnxruntime": "1.31.1", "numpy": "2"},
    "commit": "abc",
    "load_average": 0.1,
}
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
        "version": "1",
    }


def part(variants: dict[str, Any]) -> dict[str, Any]:
    about = {"sparsity": 70, "threads": 1, "batch": 8, "rounds": 9, "environment": ENVIRONMENT}
    runtimes = {name: {**found, "speedup": found["speedup"]["dense"]} for name, found in variants.items()}
    return {**about, "variants": variants, "runtimes": runtimes}


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
    assert "A processor, 2 cores" in text
    assert "onnxruntime 1.31.1" in text
    assert "9 at batch 8" in text
    assert "| dense |" not in text
    reached = ["heads and neurons", "70", "8", "1", "3.40 (3.30-3.50)", "3.3", "yes", "4.40 (4.30-4.50)", "12.3"]
    assert cells(text, "heads and neurons") == [*reached, "1e-06", "0.5", "3", "45.0 of 60.0"]
    assert cells(text, "192x16")[5:7] == ["3", "no"]
    assert cells(text, "192x16")[-1] == "not measured"


def test_rivals_have_scores_too() -> None:
    found = part({"dense": row("dense", "fp32", 1.0), "OpenVINO, dense": row("dense", "bf16", 2.0)})
    text = rivals_table([found], SCORES)
    assert cells(text, "dense")[-1] == "60.0 of 60.0"
    assert cells(text, "OpenVINO, dense")[2:6] == ["-", "8", "1", "2.00 (1.90-2.10)"]
    assert cells(text, "OpenVINO, dense")[-1] == "not measured"


def test_nothing_measured() -> None:
    assert cpu_table([], SCORES) == rivals_table([], {}) == "Nothing was measured yet.\n"


def test_scores_of_the_small_model_stand_for_those_of_the_published_one(tmp_path: Path) -> None:
    one = {"percent": 50, "precision": "fp32", "score": 0.5}
    refused = {**one, "percent": 70, "score": None}
    records = [{**one, "pattern": "block:32x16"}, {**refused, "pattern": "block:32x16"}]
    (tmp_path / "accuracy.json").write_text(json.dumps({"records": records}))
    assert read_scores(tmp_path / "accuracy.json") == {("block:192x16", 50, "fp32"): 0.5}
    assert read_scores(tmp_path / "none.json") == {}
    assert score_cell(SCORES, "dense", 70, "fp32") == "60.0 of 60.0", "dense has no sparsity"


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
        "environment": ENVIRONMENT,
    }
    text = accuracy_table(record)
    assert cells(text, "dense") == ["dense", "-", "fp32", "60.00", "100.0 %", "60.00", "3.0e-02", "0.990", "no"]
    assert cells(text, "neuron")[3:] == ["-", "-", "60.00", "-", "-", "too far"]
    assert cells(text, "head")[5:] == ["5.0e-01", "0.500", "score"]
    assert cells(text, "ffn")[-1] == "nothing"

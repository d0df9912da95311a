"""A made-up run: the files that `prune`, `compile`, `export` and `bench` leave, with numbers chosen for the tests."""

from pathlib import Path
from typing import Any

import pytest

from vlcompress.artefacts import dumps, read_json, write_file
from vlcompress.recipe import default_recipe
from vlcompress.tickets.run import Run

SPARSITIES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
DENSE = 0.70
TICKET = [0.705, 0.702, 0.701, 0.700, 0.698, 0.696, 0.690]
UNSTRUCTURED = [0.706, 0.704, 0.703, 0.702, 0.700, 0.699, 0.697]


def verdict(score: float, seeds: int = 1) -> dict[str, Any]:
    """Return a verdict in which every interval is 1 point to each side of the margin."""
    thresholds = {"strict": DENSE, "matching": DENSE - 0.005, "relaxed": 0.99 * DENSE}
    levels = {}
    for name, threshold in thresholds.items():
        margin = score - threshold
        outcome = "pass" if margin >= 0 else "pass within noise" if margin >= -0.01 else "fail"
        levels[name] = {
            "name": name,
            "threshold": threshold,
            "outcome": outcome,
            "margin": margin,
            "low": margin - 0.01,
            "high": margin + 0.01,
            "p": 0.5,
        }
    several = 0.004 if seeds > 1 else None
    facts = {"dense": DENSE, "ticket": score, "dense_sd": several, "ticket_sd": several, "seeds": seeds}
    return {**facts, "examples": 4000, "levels": levels}


def cell(arm: str, number: int, sparsity: float, scores: list[float]) -> dict[str, Any]:
    """Return one of run.json's cells."""
    judged = None if arm == "dense" else verdict(sum(scores) / len(scores), len(scores))
    trainings = [f"{arm}-{number}-{seed}" for seed in range(len(scores))]
    return {
        "arm": arm,
        "round": number,
        "sparsity": sparsity,
        "scores": scores,
        "trainings": trainings,
        "verdict": judged,
    }


def cells(seeds: int = 1) -> list[dict[str, Any]]:
    """Return all arms; seeds lie 0.4 points apart."""

    def scores(middle: float) -> list[float]:
        return [middle + 0.004 * (seed - (seeds - 1) / 2) for seed in range(seeds)]

    found = [cell("dense", 0, 0.0, scores(DENSE))]
    for arm, values in (("ticket", TICKET), ("unstructured", UNSTRUCTURED)):
        found += [cell(arm, n, s, scores(v)) for n, (s, v) in enumerate(zip(SPARSITIES, values, strict=True), 1)]
    return [*found, cell("random", 7, 0.7, scores(0.60))]


def layer_names() -> list[str]:
    """Name the prunable weights of LXMERT small as transformers does."""
    attention = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    ffn = ["intermediate.dense", "output.dense"]
    crossed = ["visual_attention.att.query", "visual_attention.att.key", "visual_attention.att.value"]
    crossed += ["visual_attention.output.dense"]
    sides = [
        f"{side}_{part}"
        for side in ("lang", "visn")
        for part in ("self_att.self.query", "self_att.self.key", "self_att.self.value", "self_att.output.dense")
    ]
    sides += ["lang_inter.dense", "lang_output.dense", "visn_inter.dense", "visn_output.dense"]
    names = [f"encoder.layer.{i}.{part}" for i in range(2) for part in attention + ffn]
    names += [f"encoder.r_layers.0.{part}" for part in attention + ffn]
    names += [f"encoder.x_layers.{i}.{part}" for i in range(2) for part in crossed + sides]
    return [f"lxmert.{name}.weight" for name in [*names, "pooler.dense"]]


def run_document(seeds: int = 1) -> dict[str, Any]:
    """Return run.json."""
    recipe = default_recipe("lxmert", "vqa", "small").override(
        pruning={"seeds": list(range(seeds)), "pattern": "block:16x16", "target": ""}
    )
    names = layer_names()
    return {
        "recipe": recipe.document(),
        "recipe_sha256": recipe.sha256(),
        "theta0_sha256": "0" * 64,
        "data": {"train": "1" * 64, "score": "2" * 64, "examples": 4000},
        "metric": "VQA soft score",
        "prunable_weights": 3_000_000,
        "backbone_weights": 4_000_000,
        "layer_sparsity": {name: 0.5 + 0.4 * index / len(names) for index, name in enumerate(names)},
        "cells": cells(seeds),
        "versions": {"vlcompress": "0.1.0", "torch": "2.13.0+cpu"},
    }


def timing(us: float) -> dict[str, Any]:
    """Return one of plan.json's timings."""
    return {"us": us, "spread_us": 0.1 * us, "calls": 50}


def plan_document() -> dict[str, Any]:
    """Return compiled/plan.json: the first layer runs sparse, the second was measured slower, the others unmeasured."""
    choices = [
        {
            "picked": "grouped",
            "why": "grouped is 1.80x as fast as dense",
            "timings": {"dense": timing(90.0), "grouped": timing(50.0)},
        },
        {
            "picked": "dense",
            "why": "the fastest sparse form, grouped, has only 0.90x the speed of dense",
            "timings": {"dense": timing(45.0), "grouped": timing(50.0)},
        },
    ]
    untested = {"picked": "dense", "why": "packed, its blocks would take more bytes than dense", "timings": {}}
    layers = []
    for index, name in enumerate(layer_names()):
        packed = index < 2
        layers.append(
            {
                "name": name,
                "shape": [128, 512],
                "format": "bsr" if packed else "dense",
                "block": [16, 16] if packed else None,
                "sparsity": 0.7,
                "rows": 160,
                "nbytes": 123_456,
                "choice": choices[index] if packed else untested,
            }
        )
    inputs = {"input_ids": [8, 14]}
    return {
        "plan": {
            "layers": layers,
            "kept": [],
            "inputs": inputs,
            "threads": 2,
            "computed_on": {"device": "cpu", "dtype": "fp32", "name": "a processor"},
            "max_abs_error": 1e-6,
        }
    }


def manifest_document() -> dict[str, Any]:
    """Return onnx/manifest.json."""
    parity = {"samples": 64, "max_abs_error": 2e-6, "max_rel_error": 1e-7, "answer_agreement": 1.0}
    return {
        "family": "lxmert",
        "opset": 20,
        "inputs": [],
        "outputs": [],
        "padding": {"text": [14]},
        "layers": [],
        "parity": {"samples": parity, "random shapes": parity},
        "speed": {
            "picked": "lowered",
            "timings": {"dense": timing(9000.0), "lowered": timing(6000.0)},
            "disabled_optimizers": ["SkipLayerNormFusion"],
            "threads": 2,
            "inputs": {"input_ids": [8, 14]},
        },
        "bytes": {
            "model": 8_000_000,
            "dense": 16_000_000,
            "pruned_layers": {"dense": 10_000_000, "packed": 4_000_000, "zipped_masked": 5_000_000},
        },
    }


def speedup(ratio: float) -> dict[str, Any]:
    """Return a speed ratio whose interval is 0.04 to each side."""
    return {"value": ratio, "low": ratio - 0.04, "high": ratio + 0.04, "significant": abs(ratio - 1) > 0.04}


def bench_row(batch: int, p50: float, ratio: float, of_onnx: float) -> dict[str, Any]:
    """Return one variant's row at one batch size; its speeds are ratios to dense and to dense in ONNX Runtime."""
    return {
        "p50_ms": p50,
        "p90_ms": 1.2 * p50,
        "p99_ms": 1.6 * p50,
        "spread_ms": 0.1 * p50,
        "calls": 120,
        "examples_per_s": 1000 * batch / p50,
        "speedup": {"dense": speedup(ratio), "onnx dense": speedup(of_onnx)},
    }


def bench_document() -> dict[str, Any]:
    """Return bench.json: compiled is 1.40 times as fast at batch 1 and slower at batch 32."""
    parity = {"samples": 33, "max_abs_error": 1.5e-6, "max_rel_error": 1e-7, "answer_agreement": 1.0}
    ratios = {
        "dense": (1.0, 1.0),
        "masked": (1.01, 0.99),
        "compiled": (1.4, 0.9),
        "onnx dense": (1.5, 1.3),
        "onnx compiled": (2.1, 1.4),
    }
    sizes = {"dense": 16.0, "masked": 16.0, "compiled": 7.5, "onnx dense": 16.1, "onnx compiled": 8.0}
    variants = {
        name: {
            "truth": "dense" if "dense" in name else "masked",
            "parity": parity,
            "bytes": int(1e6 * sizes[name]),
            "memory_mb": None if name == "masked" else 40.0,
            "batches": {"1": bench_row(1, 7 / one, one, one / 1.5), "32": bench_row(32, 60 / many, many, many / 1.3)},
        }
        for name, (one, many) in ratios.items()
    }
    curve = [
        {
            "round": number,
            "sparsity": sparsity,
            "batch": 1,
            "p50_ms": 7 / (1 + 0.06 * number),
            "speedup": {"value": 1 + 0.06 * number, "low": 0.95 + 0.06 * number, "high": 1.05 + 0.06 * number},
        }
        for number, sparsity in enumerate(SPARSITIES, 1)
    ]
    environment = {
        "time": "2026-01-02T03:04:05+00:00",
        "cpu": "Example CPU",
        "cores": 2,
        "memory_gb": 8.1,
        "gpu": None,
        "os": "Linux 6.1",
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "onnxruntime": "1.31.1"},
        "load_average": 1.5,
    }
    accuracy = {name: {"score": 0.69, "examples": 4000} for name in ratios if name != "onnx dense"}
    return {
        "environment": environment,
        "threads": 2,
        "references": ["dense", "onnx dense"],
        "variants": variants,
        "accuracy": accuracy,
        "curve": curve,
    }


def change(file: Path, where: str, value: Any) -> None:
    """Put a value into a JSON file, at a path of keys and indices ("a/0/b")."""
    document = read_json(file)
    *parents, last = where.split("/")
    place: Any = document
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    write_file(file, dumps(document))


@pytest.fixture
def pruned(tmp_path: Path) -> Run:
    """A run of which only the ticket is there."""
    run = Run(tmp_path / "runs" / "lxmert-vqa-small-0123456789")
    write_file(run.folder / "run.json", dumps(run_document()))
    return run


@pytest.fixture
def measured(pruned: Run) -> Run:
    """A run that was compiled, exported and measured."""
    write_file(pruned.folder / "compiled" / "plan.json", dumps(plan_document()))
    write_file(pruned.folder / "onnx" / "manifest.json", dumps(manifest_document()))
    write_file(pruned.folder / "bench.json", dumps(bench_document()))
    return pruned

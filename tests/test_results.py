"""Results come back from their files as they were, byte for byte."""

from pathlib import Path

import pytest

from vlcompress.artefacts import dumps, write_file
from vlcompress.errors import VlcompressError
from vlcompress.results import ArmResult, CurvePoint, Latency, RunResult, load, save, to_json

LATENCY = Latency(1.0, 2.0, 3.0, 0.5, 10, 1000.0)


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    save(LATENCY, tmp_path / "latency.json")
    assert load(Latency, tmp_path / "latency.json") == LATENCY


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    write_file(tmp_path / "latency.json", dumps({**to_json(LATENCY), "p999_ms": 4.0}))
    assert load(Latency, tmp_path / "latency.json") == LATENCY


@pytest.mark.parametrize("broken", [{"recipe": {}}, {"cells": 3, "recipe": {}, "recipe_sha256": "", "metric": ""}])
def test_a_file_of_another_shape_is_named(tmp_path: Path, broken: dict[str, object]) -> None:
    write_file(tmp_path / "run.json", dumps(broken))
    with pytest.raises(VlcompressError, match=r"run\.json' is not as this version writes it"):
        load(RunResult, tmp_path / "run.json")


def test_what_is_none_is_written_or_left_out_as_declared() -> None:
    assert to_json(ArmResult("dense", 0, 0.0, (0.5,), ("a",), None))["verdict"] is None
    assert to_json(CurvePoint(1, 0.5, 8, 1.0, None))["speedup"] is None

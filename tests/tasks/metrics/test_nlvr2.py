"""NLVR2's consistency against the official script."""

import json
from pathlib import Path

import pytest

from vlcompress.tasks.metrics.nlvr2 import consistency

OFFICIAL = Path(__file__).parents[2] / "fixtures" / "metrics" / "nlvr2_official"


def group(identifier: str) -> str:
    split, number, _, sentence = identifier.split("-")
    return f"{split}-{number}-{sentence}"


@pytest.mark.evidence("metric", "nlvr2")
def test_accuracy_and_consistency_of_the_official_script() -> None:
    expected = json.loads((OFFICIAL / "expected.json").read_text())["lil-lab/nlvr nlvr2/eval/metrics.py"]
    rows = [line.split(",") for line in (OFFICIAL / "predictions.csv").read_text().split()]
    predictions = {identifier: value.lower() for identifier, value in rows}
    labels = [json.loads(line) for line in (OFFICIAL / "labels.jsonl").read_text().splitlines()]
    right = [predictions[row["identifier"]] == row["label"].lower() for row in labels]
    assert sum(right) / len(right) == expected["accuracy"]
    assert consistency(right, [group(row["identifier"]) for row in labels]) == expected["consistency"]

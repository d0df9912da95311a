"""GQA's figures against Stanford's script."""

import json
from pathlib import Path

import pytest

from vlcompress.data.raw.gqa import read_split
from vlcompress.tasks.metrics.gqa import gqa_figures

OFFICIAL = Path(__file__).parents[2] / "fixtures" / "metrics" / "gqa_official"
FIGURES = ("binary", "open", "validity", "plausibility", "consistency", "distribution")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """GQA's files as they are published."""
    for name, published in (("questions", "testdev_all_questions"), ("choices", "testdev_choices")):
        (tmp_path / f"{published}.json").write_text((OFFICIAL / f"{name}.json").read_text())
    return tmp_path


def figures(folder: Path) -> dict[str, float]:
    said = {row["questionId"]: row["prediction"] for row in json.loads((OFFICIAL / "predictions.json").read_text())}
    return gqa_figures({str(one.id): one for one in read_split(folder, "testdev_all")}, said)


@pytest.mark.evidence("metric", "gqa")
def test_every_figure_of_the_official_script(folder: Path) -> None:
    expected = json.loads((OFFICIAL / "expected.json").read_text())["consistency=True,choices=True"]
    shares = {name: expected[name] / 100 for name in FIGURES} | {"distribution": expected["distribution"]}
    assert figures(folder) == pytest.approx(shares)


def test_what_is_not_published_gives_no_figure(folder: Path) -> None:
    (folder / "testdev_choices.json").unlink()
    assert set(figures(folder)) == {"binary", "open", "consistency", "distribution"}
    path = folder / "testdev_all_questions.json"
    questions = json.loads(path.read_text())
    implied = next(key for row in questions.values() for key in row["entailed"] if questions[key] is not row)
    path.write_text(json.dumps({key: row for key, row in questions.items() if key != implied}))
    assert set(figures(folder)) == {"binary", "open", "distribution"}

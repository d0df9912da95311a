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


def figures(folder: Path, said_instead: dict[str, str] | None = None) -> dict[str, float]:
    said = {row["questionId"]: row["prediction"] for row in json.loads((OFFICIAL / "predictions.json").read_text())}
    said |= said_instead or {}
    return gqa_figures({str(one.id): one for one in read_split(folder, "testdev_all")}, said)


@pytest.mark.evidence("metric", "gqa")
def test_every_figure_of_the_official_script(folder: Path) -> None:
    expected = json.loads((OFFICIAL / "expected.json").read_text())["consistency=True,choices=True"]
    shares = {name: expected[name] / 100 for name in FIGURES} | {"distribution": expected["distribution"]}
    assert figures(folder) == pytest.approx(shares)


def test_questions_that_are_not_balanced_count_for_consistency_alone(folder: Path) -> None:
    """The official script skips them everywhere else; whatever is answered, no other figure may move."""
    path = folder / "testdev_all_questions.json"
    questions = json.loads(path.read_text())
    left_out = next(
        key for key, row in questions.items() if row["isBalanced"] and row["types"]["structural"] == "query"
    )
    questions[left_out]["isBalanced"] = False
    path.write_text(json.dumps(questions))
    wrong, right = (figures(folder, {left_out: answer}) for answer in ("no such answer", questions[left_out]["answer"]))
    for one in (wrong, right):
        one.pop("consistency")
    assert wrong == right


def test_what_is_not_published_gives_no_figure(folder: Path) -> None:
    (folder / "testdev_choices.json").unlink()
    assert set(figures(folder)) == {"binary", "open", "consistency", "distribution"}
    path = folder / "testdev_all_questions.json"
    questions = json.loads(path.read_text())
    implied = next(key for row in questions.values() for key in row["entailed"] if questions[key] is not row)
    path.write_text(json.dumps({key: row for key, row in questions.items() if key != implied}))
    assert set(figures(folder)) == {"binary", "open", "distribution"}

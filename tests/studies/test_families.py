"""The cells of study families."""

import pytest

from tests.studies.made import arm, curve, dense
from vlcompress.errors import VlcompressError
from vlcompress.results import Outcome
from vlcompress.studies.base import Choices
from vlcompress.studies.families import Families, FamilyCurve, learned


def test_only_families_that_have_the_task_are_asked() -> None:
    cells = Families().cells(Choices(tasks=("vqa", "gqa"), size="tiny"))
    assert [cell.name for cell in cells] == ["uniter vqa", "uniter gqa", "lxmert vqa", "lxmert gqa", "vilt vqa"]


def test_a_task_of_no_family_says_which_there_are() -> None:
    with pytest.raises(VlcompressError, match=r"unknown task .classification"):
        Families().cells(Choices(tasks=("classification",), size="tiny"))


def family_curve(family: str, score: float, blind: float | None, outcome: Outcome, examples: int = 4000) -> FamilyCurve:
    cells = dense(score), arm("ticket", score, sparsity=0.3, outcome=outcome)
    return FamilyCurve(**curve(*cells, examples=examples), family=family, without_looking=blind)


def test_a_model_that_learned_nothing_gets_no_verdict() -> None:
    results = {
        "lxmert vqa": family_curve("lxmert", 0.59, 0.37, "pass"),
        "uniter vqa": family_curve("uniter", 0.59, None, "fail"),
        "vilt vqa": family_curve("vilt", 0.25, 0.37, "pass"),
    }
    report = Families().report(results)
    assert report.findings[0] == "lxmert vqa: a relaxed ticket up to 30 %."
    assert "uniter vqa: no relaxed ticket." in report.findings
    assert report.findings[4].startswith("vilt vqa: dense scores 25.00, a model that does not look 37.00: nothing was")
    assert [row[-1] for row in report.tables[0].rows] == ["30", "none", "nothing learned"]
    assert "shows nothing: vilt vqa." in report.summary
    assert "less sparse" not in report.summary
    both = {name: one for name, one in results.items() if name != "vilt vqa"} | {"vilt a": results["lxmert vqa"]}
    assert "That ViLT's tickets are less sparse than the others' does not hold here." in Families().report(both).summary


def test_a_score_that_may_be_chance_is_not_learned() -> None:
    assert not learned(family_curve("vilt", 0.51, 0.5, "pass", examples=1500))
    assert learned(family_curve("lxmert", 0.557, 0.5, "pass", examples=1500))

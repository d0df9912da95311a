"""The table: every cell there is, what was recorded of it, and nothing that was not."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.evidence import marked
from tests.conftest import pytest_runtest_makereport
from vlcompress.models.registry import FAMILIES, families_of
from vlcompress.tasks.registry import tabled
from vlcompress.tasks.support_matrix import MARKS, cells, marks, read_blind, read_evidence, read_record, rows

THERE = {(family, task) for task in tabled() for family in families_of(task)}


def test_the_evidence_is_what_markers_of_tests_say() -> None:
    """The tests named in it run with all others, and may not be skipped (tests/conftest.py)."""
    assert read_evidence() == marked(), "run `python -m bench.evidence`"


@pytest.mark.parametrize(("markers", "outcome"), [(["evidence"], "failed"), ([], "skipped")])
def test_a_test_that_is_evidence_fails_where_it_is_skipped(markers: list[str], outcome: str) -> None:
    item = SimpleNamespace(get_closest_marker=lambda name: name in markers)
    reporting = pytest_runtest_makereport(item)  # type: ignore[arg-type]
    next(reporting)
    with pytest.raises(StopIteration) as done:
        reporting.send(pytest.TestReport("a", ("a.py", 1, "a"), {}, "skipped", "no such thing", "call"))
    assert done.value.value.outcome == outcome


def test_evidence_is_of_cells_and_kinds_that_exist() -> None:
    for cell, kinds in read_evidence().items():
        assert cell in {*tabled(), *(f"{family}-{task}" for family, task in THERE)}
        assert kinds.keys() <= MARKS.keys()
        assert cell not in tabled() or kinds.keys() == {"metric"}, "parity and formats are a family's"


def test_what_no_test_shows_has_no_mark() -> None:
    assert marks("uniter", "vqa", {}) == []
    evidence = {"vqa": {"metric": ["a"]}, "uniter-vqa": {"parity": ["b"]}, "uniter-vcr": {"format": ["c"]}}
    assert marks("uniter", "vqa", evidence) == ["parity", "metric"]
    assert marks("vilt", "vqa", evidence) == ["metric"]


def test_what_is_not_recorded_is_not_made_up() -> None:
    assert all(cell["score"] is None for cell in cells({"cells": {}}))
    record = {"cells": {"uniter-vcr": {"score": 0.25, "size": "tiny"}}}
    table = {row[0]: row[1:] for row in rows(record)}
    assert table["VCR"][list(FAMILIES).index("uniter")] == "25.00 (tiny) pfm"
    assert table["VCR"][list(FAMILIES).index("lxmert")] == "–"
    assert table["GQA"][list(FAMILIES).index("lxmert")] == "not run pfm"


def test_the_shipped_record_is_of_cells_and_metrics_that_exist() -> None:
    for name, cell in read_record()["cells"].items():
        family, _, task = name.partition("-")
        assert (family, task) in THERE
        assert cell["metric"] == tabled()[task].judge.metric
        assert 0 <= cell["score"] <= 1


def test_what_a_model_scores_that_does_not_look_is_read_from_the_data(tmp_path: Path) -> None:
    assert read_blind(tmp_path, "vqa") is None
    (tmp_path / "data_report.json").write_text('{"scores": {"question_only": {"overall": 37.32}, "words_only": 50.0}}')
    assert read_blind(tmp_path, "vqa") == pytest.approx(0.3732)
    assert read_blind(tmp_path, "nlvr2") == 0.5
    assert read_blind(tmp_path, "refcoco") is None
    (tmp_path / "data_report.json").write_text('{"chance": {"Q->AR": 0.0625}}')
    assert read_blind(tmp_path, "vcr") == 0.0625
    (tmp_path / "data_report.json").write_text('{"chance": 0.33, "chance_of": "a true box drawn at random"}')
    assert read_blind(tmp_path, "refcoco") is None, "detected boxes are scored"
    record = {"cells": {"uniter-refcoco": {"score": 0.5, "without_looking": {"constant": 0.25}}}}
    table = {row[0]: row[1:] for row in rows(record)}
    assert table["RefCOCO+"][list(FAMILIES).index("uniter")].startswith("50.00 against 25.00")

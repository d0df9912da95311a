"""The table: every cell there is, what was recorded of it, and nothing that was not."""

from pathlib import Path

import pytest

from vlcompress.models.registry import FAMILIES, families_of
from vlcompress.tasks.registry import TASKS
from vlcompress.tasks.support_matrix import FORMAT, PARITY, cells, read_blind, read_record, rows

THERE = {(family, task) for task in TASKS for family in families_of(task)}


def test_marks_are_of_cells_that_exist() -> None:
    assert PARITY <= THERE
    assert FORMAT <= THERE
    assert all(family in FAMILIES for family, _ in THERE)


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
        assert cell["metric"] == TASKS[task].metric
        assert 0 <= cell["score"] <= 1


def test_what_a_model_scores_that_does_not_look_is_read_from_the_data(tmp_path: Path) -> None:
    assert read_blind(tmp_path, "vqa") is None
    (tmp_path / "data_report.json").write_text('{"scores": {"question_only": {"overall": 37.32}, "words_only": 50.0}}')
    assert read_blind(tmp_path, "vqa") == pytest.approx(0.3732)
    assert read_blind(tmp_path, "nlvr2") == 0.5
    assert read_blind(tmp_path, "refcoco") is None
    (tmp_path / "data_report.json").write_text('{"chance": {"Q->AR": 0.0625}}')
    assert read_blind(tmp_path, "vcr") == 0.0625

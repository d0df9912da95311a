"""The papers' numbers are whole tables, and agree with each other where they must."""

import json
from pathlib import Path

import pytest

import vlcompress.studies.published as published
from vlcompress.errors import VlcompressError
from vlcompress.studies.published import published_table

IDS = [row["id"] for row in json.loads((Path(published.__file__).parent / "published.json").read_text())["tables"]]


@pytest.mark.parametrize("name", IDS)
def test_every_row_has_a_value_for_every_column(name: str) -> None:
    table = published_table(name)
    assert table.rows
    for row in table.rows:
        assert len(row.values) == len(table.columns) == len(row.cells())
        assert len(row.sd) in (0, len(table.columns))


def test_the_mean_relative_drop_of_table_2_follows_from_its_scores() -> None:
    dense, *others = published_table("a2").rows
    for row in others:
        drops = [100 * (a - b) / a for a, b in zip(dense.values[:8], row.values[:8], strict=True) if a and b]
        assert sum(drops) / 8 == pytest.approx(row.values[8], abs=0.011)
        without_vcr = [drop for place, drop in enumerate(drops) if place != 2]
        assert sum(without_vcr) / 7 == pytest.approx(row.values[9], abs=0.011)


@pytest.mark.parametrize(("name", "dense", "line"), [("a1", 2, 3), ("a3", 1, 2), ("a4", 0, 1)])
def test_the_99_percent_lines_follow_from_the_dense_scores(name: str, dense: int, line: int) -> None:
    rows = published_table(name).rows
    for score, wanted in zip(rows[dense].values, rows[line].values, strict=True):
        assert score is not None
        assert 0.99 * score == pytest.approx(wanted, abs=0.0101)


def test_deviations_stand_beside_their_values() -> None:
    row = next(row for row in published_table("a4").rows if row.name == "ticket")
    assert row.cells() == ("70.51 ± 0.11", "75.22 ± 0.41")


def test_a_table_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(VlcompressError, match="a1, a2"):
        published_table("z9")

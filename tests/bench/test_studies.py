"""Studies of a home become small records, plots and a page; what is left out is said."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.studies import collect, page, plots, read_records, record
from vlcompress.errors import VlcompressError
from vlcompress.report.plots import Chart, Point, Series
from vlcompress.studies.base import Choices

CHART = Chart("score & sparsity", "x", "y", (Series("ticket", (Point(50, 59.1, 58.0, 60.0), Point(70, 58.0))),))


def study(home: Path, folder: str, name: str = "tickets", **choices: Any) -> dict[str, Any]:
    """Write a study's document into a home."""
    document = {
        "study": name,
        "title": "tickets by task",
        "command": f"vlcompress study {name}",
        "choices": asdict(Choices(**choices)),
        "environment": {"cpu": "a processor"},
        "seconds": {"vqa": 1.0},
        "trainings": {"count": 4, "timed": 2, "seconds": 60.0},
        "failed": {},
        "findings": ["vqa: found."],
        "claims": [],
        "summary": "vqa: relaxed up to 70 %.",
        "tables": [],
        "charts": [asdict(CHART)],
        "published": [],
        "results": {"vqa": {"cells": [{"arm": "dense", "scores": [0.1234567], "trainings": ["0123"], "figures": {}}]}},
    }
    path = home / "studies" / folder / "study.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    return document


def test_a_record_drops_names_of_trainings_and_rounds(tmp_path: Path) -> None:
    kept = record(study(tmp_path, "tickets"))
    assert kept["results"] == {"vqa": {"cells": [{"arm": "dense", "scores": [0.12346]}]}}
    assert kept["trainings"] == {"count": 4, "timed": 2, "seconds": 60.0}


def test_studies_sit_side_by_side_and_earlier_records_stay(tmp_path: Path) -> None:
    study(tmp_path / "one", "tickets")
    study(tmp_path / "two", "tickets-gqa", tasks=("gqa",))
    assert collect(tmp_path / "one", tmp_path / "out") == []
    assert collect(tmp_path / "two", tmp_path / "out") == []
    assert list(read_records(tmp_path / "out")) == ["tickets", "tickets-gqa"]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    study(tmp_path, "tickets")
    study(tmp_path, "tickets-seeds-0", seeds=(0,))
    study(tmp_path, "tickets-mine", source="/my/data")
    old = study(tmp_path, "rewind", "rewind")
    (tmp_path / "studies/rewind/study.json").write_text(json.dumps({"study": "rewind", "findings": old["findings"]}))
    assert collect(tmp_path, tmp_path / "out") == [
        "rewind: an earlier version wrote this: run `vlcompress study rewind` with the same options again (its "
        "trainings are not done twice)",
        "tickets-mine: it is on data of one's own ('data')",
        "tickets-seeds-0: tickets has the same with more seeds",
    ]
    assert list(read_records(tmp_path / "out")) == ["tickets"]


def test_a_record_that_is_too_large_is_refused(tmp_path: Path) -> None:
    document = study(tmp_path, "tickets")
    document["findings"] = ["x" * 150_000]
    (tmp_path / "studies/tickets/study.json").write_text(json.dumps(document))
    with pytest.raises(VlcompressError, match="at most 150000"):
        collect(tmp_path, tmp_path / "out")
    with pytest.raises(VlcompressError, match="there is no study"):
        collect(tmp_path / "nowhere", tmp_path / "out")


def test_the_page_says_cost_seeds_and_finding_with_plots_of_some(tmp_path: Path) -> None:
    text = page({"tickets": study(tmp_path, "tickets"), "rewind": study(tmp_path, "rewind", "rewind", seeds=(0,))})
    assert "**[tickets](tickets.json)** (lxmert small, 3 seeds, 4 trainings in 2 min; `vlcompress study" in text
    assert "`): vqa: relaxed up" in text
    assert "lxmert small, 1 seed, 4 trainings" in text
    assert '<img src="tickets-1.svg" alt="score &amp; sparsity"' in text
    assert "rewind-1.svg" not in text
    vision = study(tmp_path, "vision", "vision", seeds=(0,))
    assert "(resnet mini, 1 seed," in page({"vision": vision})


def test_plots_are_files_with_a_background_of_their_own(tmp_path: Path) -> None:
    drawn = plots({"tickets": study(tmp_path, "tickets")})
    assert list(drawn) == ["tickets-1.svg"]
    root = ElementTree.fromstring(drawn["tickets-1.svg"])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "score & sparsity" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "fill: #ffffff" in drawn["tickets-1.svg"]

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vlcompress.artefacts import dumps, read_json, write_file
from vlcompress.errors import VlcompressError
from vlcompress.report.page import write_report
from vlcompress.report.report_data import report_data
from vlcompress.report.sentences import headline
from vlcompress.results import to_json
from vlcompress.tickets.run import Run

REFERENCES = ("src", "href", "xlink:href")
VOID = {"meta", "br", "img", "link"}


class Balanced(HTMLParser):
    """Checks that every element is closed, in order, and collects headings and what refers outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [
            f"{tag} {name}={value}" for name, value in attrs if name in REFERENCES and not str(value).startswith("#")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [f"{tag} {name}" for name, to in attrs if name in REFERENCES and not str(to).startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("state", ["pruned", "measured"])
def test_the_page_is_whole_and_refers_to_nothing_outside(state: str, request: pytest.FixtureRequest) -> None:
    page = write_report(request.getfixturevalue(state)).read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.outside == []
    assert not re.search(r"https?://|url\((?!#)|@import|<script", page)


def test_the_verdict_stands_first(measured: Run) -> None:
    page = write_report(measured).read_text(encoding="utf-8")
    said = read_json(measured.folder / "report.json")["headline"]
    assert page.index(said) < page.index("<h2>")


def test_a_page_without_measurements_says_so_in_their_places(pruned: Run) -> None:
    page = write_report(pruned).read_text(encoding="utf-8")
    for title in ("Speed, memory and size", "Latency against sparsity"):
        after = page[page.index(f"<h2>{title}</h2>") :]
        assert after.index("not measured yet: run <code>vlcompress bench</code>") < after.index("</section>")
    assert "Every layer: timings and choice" not in page


def test_every_figure_of_the_benchmark_is_on_the_page(measured: Run) -> None:
    page = write_report(measured).read_text(encoding="utf-8")
    for figure in ("1.40× (1.36 to 1.44)", "0.90× (0.86 to 0.94)", "8.40", "11.20", "200.00", "7.50", "not measured"):
        assert f'<td class="number">{figure}</td>' in page
    assert "the fastest sparse form, grouped, has only 0.90x the speed of dense" in page


def test_the_json_holds_the_same_numbers(measured: Run) -> None:
    write_report(measured)
    document = read_json(measured.folder / "report.json")
    assert document["headline"] == headline(report_data(measured))
    assert document["speed"]["variants"]["compiled"]["batches"]["1"]["p50_ms"] == 5.0
    assert len(document["curve"]) == 7


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(measured: Run, tmp_path: Path) -> None:
    first = write_report(measured).read_bytes()
    moved = tmp_path / "elsewhere" / measured.folder.name
    moved.parent.mkdir()
    measured.folder.rename(moved)
    assert write_report(Run(moved)).read_bytes() == first


def test_a_damaged_file_leaves_the_earlier_report(measured: Run) -> None:
    page = write_report(measured)
    before = page.read_bytes()
    (measured.folder / "compiled" / "plan.json").write_text("{")
    with pytest.raises(VlcompressError, match=r"plan\.json"):
        write_report(measured)
    assert page.read_bytes() == before


def test_names_from_the_files_cannot_become_markup(measured: Run) -> None:
    document = to_json(measured.result())
    write_file(measured.folder / "run.json", dumps({**document, "metric": "<script>alert(1)</script>"}))
    assert "<script" not in write_report(measured).read_text(encoding="utf-8")


def test_unjudged_optional_parts_may_be_absent(pruned: Run) -> None:
    document = {k: v for k, v in to_json(pruned.result()).items() if k not in ("layer_sparsity", "versions")}
    kept = [cell for cell in document["cells"] if cell["arm"] in ("dense", "ticket")]
    write_file(pruned.folder / "run.json", dumps({**document, "cells": kept}))
    page = write_report(pruned).read_text(encoding="utf-8")
    assert "What blocks cost" not in page

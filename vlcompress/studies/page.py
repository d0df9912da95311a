"""A study as HTML and as plain JSON, and back: the page of a study, and its section in a run's report."""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vlcompress.artefacts import read_json, write_file
from vlcompress.errors import VlcompressError
from vlcompress.report.markup import code, figure, folded, listing, paragraph, section, table, whole_page
from vlcompress.report.plots import Chart, Point, Reference, Series, inline
from vlcompress.studies.base import Json, StudyReport, Table
from vlcompress.studies.published import PublishedTable, published_table

FOLDER = "studies"
DOCUMENT = "study.json"


def page(document: Json) -> str:
    """Return a study as one HTML page that refers to nothing outside itself."""
    title = f"Study: {document['study']}"
    parts = (f"<h1>{escape(title)}</h1>", paragraph(document["title"], "headline"), body(document))
    return whole_page(title, parts)


def body(document: Json, level: int = 2) -> str:
    """Give the sections of a study: findings, our charts and tables, failures, what the papers report, the command."""
    report = read_report(document)
    ours = [figure(inline(chart), chart.title) for chart in report.charts]
    ours += [paragraph(one.title) + table(one.header, one.rows, text_columns=one.text_columns) for one in report.tables]
    parts = {
        "What came out": [listing(report.findings)] if report.findings else [],
        "Measured here, on built-in or own data": ours,
        "Cells that failed": [listing(failures(document["failed"]))] if document["failed"] else [],
        "Published, on other data": [
            *([listing(report.claims)] if report.claims else []),
            *(_published(published_table(name)) for name in report.published),
        ],
        "How to repeat this": [code(document["command"])],
    }
    return "\n".join(section(title, *found, level=level) for title, found in parts.items() if found)


def write_studies(home: Path) -> Path:
    """Write one page about all studies of a home, ``studies/report.html``, and give its path.

    Raises:
        VlcompressError: there are none, or a study.json is damaged.
    """
    sections = report_sections(home)
    if not sections:
        raise VlcompressError(f"there is no study in '{home}': run `vlcompress study tickets` first, or give --home")
    path = home / FOLDER / "report.html"
    write_file(path, whole_page("Studies", ("<h1>Studies</h1>", sections)))
    return path


def report_sections(home: Path) -> str:
    """Give the section of a report for every study of a home: findings open, the rest folded; "" where there are none.

    Raises:
        VlcompressError: a damaged study.json.
    """
    parts = [section(name, *_summary(document), level=3) for name, document in read_studies(home).items()]
    return section("Studies in the same folder of runs", *parts) if parts else ""


def read_studies(home: Path) -> dict[str, Json]:
    """Read every study of a home, by the name of its folder.

    Raises:
        VlcompressError: a damaged study.json.
    """
    return {path.parent.name: read_json(path) for path in sorted((home / FOLDER).glob(f"*/{DOCUMENT}"))}


def outdated(document: Json) -> str:
    """Say what to do about a study that an earlier version wrote; "" for a current one."""
    if {"command", "charts", "published", "summary"} <= set(document):
        return ""
    return (
        f"an earlier version wrote this: run `vlcompress study {document.get('study', '')}` with the same options "
        "again (its trainings are not done twice)"
    )


def _summary(document: Json) -> list[str]:
    if stale := outdated(document):
        return [paragraph(stale, "missing")]
    rest = body({**document, "findings": []}, level=4)
    summary = "Charts, tables, and what the papers report on other data"
    return [paragraph(document["title"]), listing(document["findings"]), folded(summary, rest)]


def read_report(document: Json) -> StudyReport:
    """Read back a study's report from its JSON."""
    return StudyReport(
        findings=tuple(document["findings"]),
        tables=tuple(_table(one) for one in document["tables"]),
        charts=tuple(_chart(one) for one in document["charts"]),
        published=tuple(document["published"]),
        claims=tuple(document.get("claims", ())),
        summary=document["summary"],
    )


def report_document(report: StudyReport) -> Json:
    """Return a study's report as plain JSON."""
    return {
        "findings": list(report.findings),
        "tables": [dataclasses.asdict(one) for one in report.tables],
        "charts": [dataclasses.asdict(one) for one in report.charts],
        "published": list(report.published),
        "claims": list(report.claims),
        "summary": report.summary or " ".join(report.findings[:3]),
    }


def failures(failed: Mapping[str, str]) -> list[str]:
    """List failed cells with their reasons."""
    return [f"{name}: {reason}" for name, reason in failed.items()]


def _table(one: Mapping[str, Any]) -> Table:
    return Table(one["title"], tuple(one["header"]), _rows(one["rows"]), tuple(one["text_columns"]))


def _rows(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _chart(one: Mapping[str, Any]) -> Chart:
    series = tuple(
        Series(found["name"], tuple(Point(**point) for point in found["points"]), found["line"])
        for found in one["series"]
    )
    references = tuple(Reference(**found) for found in one["references"])
    return Chart(**{**one, "series": series, "references": references, "x_names": tuple(one["x_names"])})


def _published(one: PublishedTable) -> str:
    rows = [(row.name, *row.cells()) for row in one.rows]
    return paragraph(f"{one.title} ({one.where} of {one.paper})") + table(("", *one.columns), rows)

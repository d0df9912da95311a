"""A study as HTML and as plain JSON, and back: the page of a study, and its section in a run's report."""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vlcompress.artefacts import read_json
from vlcompress.report.markup import code, figure, folded, listing, paragraph, section, table
from vlcompress.report.style import CSS
from vlcompress.report.svg import Chart, Point, Reference, Series, draw
from vlcompress.studies.base import Json, Shown, Table
from vlcompress.studies.published import PublishedTable, published_table

FOLDER = "studies"
DOCUMENT = "study.json"


def page(document: Json) -> str:
    """Give a study as one HTML page that refers to nothing outside itself."""
    title = f"Study: {document['study']}"
    parts = (f"<h1>{escape(title)}</h1>", paragraph(document["title"], "headline"), body(document))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def body(document: Json) -> str:
    """Give the sections of a study: findings, our charts and tables, failures, what the papers report, the command."""
    shown = shown_of(document)
    ours = [figure(draw(chart), chart.title) for chart in shown.charts]
    ours += [paragraph(one.title) + table(one.header, one.rows, text_columns=one.text_columns) for one in shown.tables]
    parts = [
        section("What came out", listing(shown.findings)) if shown.findings else "",
        section("Measured here, on built-in or own data", *ours),
        section("Cells that failed", listing(failures(document["failed"]))) if document["failed"] else "",
        section("Published, on other data", *(_published(published_table(name)) for name in shown.published)),
        section("How to repeat this", code(document["command"])),
    ]
    return "\n".join(part for part in parts if part)


def report_sections(home: Path) -> str:
    """Give the section of a report for every study of a home: findings open, the rest folded; "" where there are none.

    Raises:
        VlcompressError: a damaged study.json.
    """
    parts = [f"<h3>{escape(name)}</h3>" + _summary(document) for name, document in read_studies(home).items()]
    return section("Studies", *parts) if parts else ""


def read_studies(home: Path) -> dict[str, Json]:
    """Read every study of a home, by the name of its folder.

    Raises:
        VlcompressError: a damaged study.json.
    """
    return {path.parent.name: read_json(path) for path in sorted((home / FOLDER).glob(f"*/{DOCUMENT}"))}


def outdated(document: Json) -> str:
    """Say what to do about a study that an earlier version wrote; "" for a current one."""
    if {"command", "charts", "published"} <= set(document):
        return ""
    return (
        f"an earlier version wrote this: run `vlcompress study {document.get('study', '')}` with the same options "
        "again (its trainings are not done twice)"
    )


def _summary(document: Json) -> str:
    if stale := outdated(document):
        return paragraph(stale, "missing")
    rest = body({**document, "findings": []})
    return (
        paragraph(document["title"])
        + listing(document["findings"])
        + folded("Charts, tables, and what the papers report on other data", rest)
    )


def shown_of(document: Json) -> Shown:
    """Read back what is shown of a study from its JSON."""
    return Shown(
        findings=tuple(document["findings"]),
        tables=tuple(_table(one) for one in document["tables"]),
        charts=tuple(_chart(one) for one in document["charts"]),
        published=tuple(document["published"]),
    )


def shown_document(shown: Shown) -> Json:
    """Give what is shown of a study as plain JSON."""
    return {
        "findings": list(shown.findings),
        "tables": [dataclasses.asdict(one) for one in shown.tables],
        "charts": [dataclasses.asdict(one) for one in shown.charts],
        "published": list(shown.published),
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

"""A study as HTML and as plain JSON, and back: the page of a study, and its section in a run's report."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from vlcompress.artefacts import read_json, write_file
from vlcompress.errors import VlcompressError
from vlcompress.report.html import render
from vlcompress.report.plots import Chart
from vlcompress.report.table import Table
from vlcompress.results import from_json
from vlcompress.studies.base import Json, StudyReport
from vlcompress.studies.published import PublishedTable, published_table

FOLDER = "studies"
DOCUMENT = "study.json"


def page(document: Json) -> str:
    """Show a study as one HTML page that refers to nothing outside itself."""
    return render("study_page.html.j2", title=f"Study: {document['study']}", study=_shown("", document))


def write_studies(home: Path) -> Path:
    """Write one page about all studies of a home, ``studies/report.html``, and give its path.

    Raises:
        VlcompressError: there are none, or a study.json is damaged.
    """
    sections = report_sections(home)
    if not sections:
        raise VlcompressError(f"there is no study in '{home}': run `vlcompress study tickets` first, or give --home")
    path = home / FOLDER / "report.html"
    write_file(path, render("studies_page.html.j2", title="Studies", sections=sections))
    return path


def report_sections(home: Path) -> str:
    """Show every study of a home in a section: findings open, the rest folded; "" where there are none.

    Raises:
        VlcompressError: a damaged study.json.
    """
    studies = [_shown(name, document) for name, document in read_studies(home).items()]
    return render("studies.html.j2", studies=studies) if studies else ""


def study_plots(home: Path) -> dict[str, Chart]:
    """Read the charts of every study of a home, by the name for a file: study and number.

    Raises:
        VlcompressError: a damaged study.json.
    """
    return {
        f"{name}-{number}": chart
        for name, document in read_studies(home).items()
        if not outdated(document)
        for number, chart in enumerate(read_report(document).charts, 1)
    }


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


def _shown(name: str, document: Json) -> Json:
    """Gather what the templates show of a study."""
    if stale := outdated(document):
        return {"name": name, "outdated": stale}
    report = read_report(document)
    return {
        "name": name,
        "outdated": "",
        "title": document["title"],
        "report": report,
        "failures": failures(document["failed"]),
        "published": [_published(published_table(one)) for one in report.published],
        "command": document["command"],
    }


def read_report(document: Json) -> StudyReport:
    """Read back a study's report from its JSON."""
    report: StudyReport = from_json(StudyReport, document)
    return report


def report_document(report: StudyReport) -> Json:
    """Write a study's report as plain JSON."""
    return {**dataclasses.asdict(report), "summary": report.summary or " ".join(report.findings[:3])}


def failures(failed: Mapping[str, str]) -> list[str]:
    """List failed cells with their reasons."""
    return [f"{name}: {reason}" for name, reason in failed.items()]


def _published(one: PublishedTable) -> Table:
    rows = tuple((row.name, *row.cells()) for row in one.rows)
    return Table(f"{one.title} ({one.where} of {one.paper})", ("", *one.columns), rows)

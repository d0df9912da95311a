from vlcompress.report.html import details, render
from vlcompress.report.plots import Chart, Point, Series
from vlcompress.report.table import Table
from vlcompress.studies.base import StudyReport

EVIL = '<img src=x onerror="y">'


def study_page(**changes: object) -> str:
    """Fill in a page that uses every part: prose, lists, figures, tables, preformatted text."""
    table = Table(EVIL, (EVIL, "n"), ((EVIL, "1"),))
    chart = Chart(EVIL, "x", "y", (Series("a", (Point(0, 0),)),))
    report = StudyReport((EVIL,), (table,), (chart,), claims=(EVIL,))
    study = {"title": EVIL, "report": report, "failures": [EVIL], "published": [table], "command": EVIL, "outdated": ""}
    return render("study_page.html.j2", title=EVIL, study=study | changes)


def test_text_is_escaped_everywhere() -> None:
    page = study_page()
    assert "<img" not in page
    assert page.count("&lt;img") == 15


def test_commands_between_backticks_are_set_as_code() -> None:
    assert '<p class="headline">run <code>vlcompress bench</code></p>' in study_page(title="run `vlcompress bench`")


def test_numbers_stand_to_the_right() -> None:
    assert '<th class="text">&lt;img src=x onerror=&#34;y&#34;&gt;</th><th class="number">n</th>' in study_page()
    assert '<td class="number">1</td>' in study_page()


def test_details_leave_out_what_is_missing_and_join_what_is_nested() -> None:
    found = details({"gpu": None, "packages": {"torch": "2.13"}, "memory_bytes": 16000000})
    assert found.rows == (("packages", "torch 2.13"), ("memory bytes", "16,000,000"))

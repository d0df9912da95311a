import pytest

from vlcompress.report.table import Table, markdown, terminal

SCORES = Table(
    "", ("arm", "score", "verdict"), (("dense", "70.00", ""), ("ticket", "9.50", "pass within noise")), (0, 2)
)


def test_columns_line_up_without_trailing_spaces() -> None:
    assert terminal(SCORES).splitlines() == [
        "arm     score  verdict",
        "dense   70.00",
        "ticket   9.50  pass within noise",
    ]


def test_a_pipe_gets_no_colour_and_whole_rows_however_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert "\033" not in terminal(SCORES)
    assert terminal(SCORES).splitlines()[2] == "ticket   9.50  pass within noise"


def test_a_narrow_terminal_gets_a_line_for_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    assert terminal(SCORES).splitlines()[-3:] == ["arm: ticket", "score: 9.50", "verdict: pass within noise"]
    monkeypatch.setenv("COLUMNS", "80")
    assert "ticket   9.50  pass within noise" in terminal(SCORES)


def test_brackets_are_text() -> None:
    assert "[bold]x[/bold] :smile:" in terminal(Table("", ("name",), (("[bold]x[/bold] :smile:",),)))


def test_markdown_sets_numbers_to_the_right() -> None:
    assert markdown(SCORES).splitlines() == [
        "| arm | score | verdict |",
        "| --- | ---: | --- |",
        "| dense | 70.00 |  |",
        "| ticket | 9.50 | pass within noise |",
    ]

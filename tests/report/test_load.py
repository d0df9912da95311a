"""The text and the charts of a load."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from vlcompress.report.load import goodput_chart, latency_chart, load_text, write_charts
from vlcompress.results import RateResult, ServedModel, ServeResult


def point(rate: float, good: float, p50: float | None, p99: float | None, refused: int) -> RateResult:
    outcomes = {"200": int(good * 3), **({"503": refused} if refused else {})}
    return RateResult(rate, good, p50, p99, p99, 1.5 if refused else None, 0.2, outcomes, 3.0, rate)


def result() -> ServeResult:
    models = {
        "dense": ServedModel(210.0, (point(100, 100, 3.0, 5.0, 0), point(300, 200, 80.0, 90.0, 300))),
        "compiled": ServedModel(320.0, (point(100, 100, 2.0, 4.0, 0), point(300, 299, 6.0, 9.0, 3))),
    }
    return ServeResult({"cpu": "A", "cores": 2}, {"rounds": 3, "seconds": 1.0, "rows": 1}, models, answers_checked=True)


def test_text_tells_rates_latencies_and_errors() -> None:
    text = load_text(result())
    assert "200:600 503:300" in text
    assert "compiled: 320 requests/s in a closed loop" in text
    assert text.splitlines()[1].split() == ["dense", "100.0", "100.0", "3.0", "5.0", "5.0", "-", "200:300", "0.2"]


def test_overloaded_points_are_in_the_load_chart_only() -> None:
    latency = {series.name: [found.x for found in series.points] for series in latency_chart(result()).series}
    assert latency == {
        "dense, p50": [100], "dense, p99": [100], "compiled, p50": [100, 299], "compiled, p99": [100, 299],
    }  # fmt: skip
    load = {series.name: [found.x for found in series.points] for series in goodput_chart(result()).series}
    assert load == {"dense": [100, 300], "compiled": [100, 300]}


def test_charts_are_files_that_open_alone(tmp_path: Path) -> None:
    for path in write_charts(result(), tmp_path):
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_server_that_answers_nothing_can_be_drawn(tmp_path: Path) -> None:
    nothing = replace(result(), models={"down": ServedModel(0.0, (point(10, 0, None, None, 30),))})
    assert "down" in load_text(nothing)
    write_charts(nothing, tmp_path)

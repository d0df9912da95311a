"""What `vlcompress bench serve` measured: a table, and two charts."""

from pathlib import Path
from typing import Any

from vlcompress.report.plots import Chart, Point, Reference, Series, save_all
from vlcompress.report.table import Table, terminal

ACCEPTED = 0.99
"""Points at which a smaller share was answered 200 are left out of the latency chart: that server is overloaded."""


def load_text(record: dict[str, Any]) -> str:
    """Say what each model did at each rate."""
    header = ("model", "offered/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "refused p99", "outcomes", "late p99")
    rows = tuple(_row(name, point) for name, found in record["models"].items() for point in found["points"])
    environment, plan = record["environment"], record["plan"]
    return "\n".join(
        [
            terminal(Table("", header, rows)),
            "",
            *(f"{name}: {found['capacity_per_s']:.0f} requests/s in a closed loop" for name, found in _of(record)),
            f"open loop, Poisson arrivals, {plan['rounds']} rounds of {plan['seconds']:g} s, {plan['rows']} row(s) a "
            "request; latency in ms from the time a request was due",
            f"{environment['cpu']}, {environment['cores']} cores for server and client together",
            *(["answers were checked against the files before"] if record["answers_checked"] else []),
        ]
    )


def write_charts(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw latency over throughput, and throughput over load, into ``serve-latency.svg`` and ``serve-load.svg``."""
    return save_all({"serve-latency": latency_chart(record), "serve-load": goodput_chart(record)}, folder, ["svg"])


def latency_chart(record: dict[str, Any]) -> Chart:
    """Latency over answers a second, for the rates at which (nearly) everything was answered."""
    series = [
        Series(f"{name}, {percentile}", tuple(_points(found, percentile)))
        for name, found in _of(record)
        for percentile in ("p50", "p99")
        if _points(found, percentile)
    ]
    return Chart(
        "Latency over throughput", "requests answered a second", "latency, ms", tuple(series), y_from_zero=True
    )


def goodput_chart(record: dict[str, Any]) -> Chart:
    """Answers of status 200 a second over requests offered a second."""
    series = [
        Series(name, tuple(Point(point["offered_per_s"], point["good_per_s"]) for point in found["points"]))
        for name, found in _of(record)
    ]
    levels = [Reference(f"{name}, closed loop", found["capacity_per_s"]) for name, found in _of(record)]
    return Chart(
        "Throughput over load", "requests offered a second", "answered 200 a second", tuple(series), tuple(levels), True
    )


def _of(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(record["models"].items())


def _points(found: dict[str, Any], percentile: str) -> list[Point]:
    return [
        Point(point["good_per_s"], point[f"{percentile}_ms"])
        for point in found["points"]
        if point["outcomes"].get("200", 0) >= ACCEPTED * sum(point["outcomes"].values())
    ]


def _row(name: str, point: dict[str, Any]) -> tuple[str, ...]:
    outcomes = " ".join(f"{outcome}:{count}" for outcome, count in point["outcomes"].items())
    times = [_ms(point[key]) for key in ("p50_ms", "p95_ms", "p99_ms", "refused_p99_ms")]
    rates = (f"{point['offered_per_s']:.1f}", f"{point['good_per_s']:.1f}")
    return (name, *rates, *times, outcomes, _ms(point["late_p99_ms"]))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

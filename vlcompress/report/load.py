"""What `vlcompress bench serve` measured: a table, and two charts."""

from pathlib import Path

from vlcompress.report.plots import Chart, Point, Reference, Series, save_all
from vlcompress.report.table import Table, terminal
from vlcompress.results import Load, ServedModel, ServeResult

ACCEPTED = 0.99
"""Points at which a smaller share was answered 200 are left out of the latency chart: that server is overloaded."""


def load_text(result: ServeResult) -> str:
    """Say what each model did at each rate."""
    header = ("model", "offered/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "refused p99", "outcomes", "late p99")
    rows = tuple(_row(name, point) for name, model in result.models.items() for point in model.points)
    environment, plan = result.environment, result.plan
    return "\n".join(
        [
            terminal(Table("", header, rows)),
            "",
            *(f"{name}: {one.capacity_per_s:.0f} requests/s in a closed loop" for name, one in result.models.items()),
            f"open loop, Poisson arrivals, {plan['rounds']} rounds of {plan['seconds']:g} s, {plan['rows']} row(s) a "
            "request; latency in ms from the time a request was due",
            f"{environment['cpu']}, {environment['cores']} cores for server and client together",
            *(["answers were checked against the files before"] if result.answers_checked else []),
        ]
    )


def write_charts(result: ServeResult, folder: Path) -> list[Path]:
    """Draw latency over throughput, and throughput over load, into ``serve-latency.svg`` and ``serve-load.svg``."""
    return save_all({"serve-latency": latency_chart(result), "serve-load": goodput_chart(result)}, folder, ["svg"])


def latency_chart(result: ServeResult) -> Chart:
    """Lay out latency over answers a second, for the rates at which (nearly) everything was answered."""
    series = (
        Series(f"{name}, {percentile}", _points(model, percentile))
        for name, model in result.models.items()
        for percentile in ("p50", "p99")
    )
    drawn = tuple(one for one in series if one.points)
    return Chart("Latency over throughput", "requests answered a second", "latency, ms", drawn, y_from_zero=True)


def goodput_chart(result: ServeResult) -> Chart:
    """Lay out answers of status 200 a second over requests offered a second."""
    series = (
        Series(name, tuple(Point(point.offered_per_s, point.good_per_s) for point in model.points))
        for name, model in result.models.items()
    )
    levels = (Reference(f"{name}, closed loop", model.capacity_per_s) for name, model in result.models.items())
    return Chart(
        "Throughput over load", "requests offered a second", "answered 200 a second", tuple(series), tuple(levels), True
    )


def _points(model: ServedModel, percentile: str) -> tuple[Point, ...]:
    return tuple(
        Point(point.good_per_s, getattr(point, f"{percentile}_ms"))
        for point in model.points
        if point.outcomes.get("200", 0) >= ACCEPTED * sum(point.outcomes.values())
    )


def _row(name: str, load: Load) -> tuple[str, ...]:
    outcomes = " ".join(f"{outcome}:{count}" for outcome, count in load.outcomes.items())
    times = (_ms(value) for value in (load.p50_ms, load.p95_ms, load.p99_ms, load.refused_p99_ms))
    return (name, f"{load.offered_per_s:.1f}", f"{load.good_per_s:.1f}", *times, outcomes, _ms(load.late_p99_ms))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

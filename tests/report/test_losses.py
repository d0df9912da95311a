"""The curves of the report: what the trainings' logs say, averaged by windows, and what is missing told."""

import json

from vlcompress.report.losses import WINDOWS, loss_chart, loss_curves
from vlcompress.report.page import report_html
from vlcompress.report.report_data import report_data
from vlcompress.tickets.run import Run


def log(run: Run, training: str, losses: list[float | None]) -> None:
    """Write a training's log beside a run."""
    lines = [json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in enumerate(losses, 1)]
    path = run.folder.parent / "trainings" / training / "log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(lines))


def test_a_curve_is_the_mean_of_each_window_up_to_its_last_step(pruned: Run) -> None:
    log(pruned, "dense-0-0", [float(step) for step in range(1, 10 * WINDOWS + 1)])
    curves = loss_curves(pruned, pruned.result())
    assert curves is not None
    assert [curve.name for curve in curves] == ["dense"]
    assert curves[0].steps[:2] == (10, 20)
    assert curves[0].losses[:2] == (5.5, 15.5)
    assert len(curves[0].steps) == WINDOWS


def test_a_short_training_has_a_point_a_step_and_what_is_not_finite_is_left_out(pruned: Run) -> None:
    log(pruned, "dense-0-0", [3.0, None, 1.0])
    log(pruned, "ticket-7-0", [])
    curves = loss_curves(pruned, pruned.result())
    assert curves is not None
    assert [(curve.name, curve.steps, curve.losses) for curve in curves] == [("dense", (1, 3), (3.0, 1.0))]


def test_more_rounds_than_a_chart_has_colours_leave_the_first_ones_out(pruned: Run) -> None:
    for training in ("dense-0-0", *(f"ticket-{number}-0" for number in range(1, 8))):
        log(pruned, training, [2.0, 1.0])
    curves = loss_curves(pruned, pruned.result())
    assert curves is not None
    names = [series.name for series in loss_chart(curves).series]
    assert names == ["dense", *(f"ticket, round {number}" for number in range(2, 8))]


def test_the_page_draws_them_and_says_where_they_are_missing(pruned: Run) -> None:
    assert "their losses are not drawn" in report_html(report_data(pruned))
    log(pruned, "dense-0-0", [2.0, 1.0])
    page = report_html(report_data(pruned))
    assert 'aria-label="Loss over steps"' in page
    assert 'aria-label="Score over rounds"' in page

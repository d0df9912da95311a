"""What the report shows of accuracy: the chart, the arms and their verdicts, and what blocks cost."""

from collections.abc import Iterable

from vlcompress.report.plots import Chart, Point, Reference, Series
from vlcompress.report.report_data import ArmScore, ReportData
from vlcompress.report.sentences import non_inferior, seeds_words
from vlcompress.report.table import Table
from vlcompress.results import LEVELS
from vlcompress.tickets.verdict import RELAXED

SPARSITY = "sparsity of the prunable weights, %"


def accuracy_chart(data: ReportData) -> Chart:
    """Lay out score (percent) against sparsity (percent): a series for each arm, dense and its 99 % as lines."""
    names = dict.fromkeys(arm.arm for arm in data.arms if arm.arm != "dense")
    series = (_series(name, [arm for arm in data.arms if arm.arm == name]) for name in names)
    return score_chart("Accuracy against sparsity", data.metric, data.dense.score, series)


def rounds_chart(data: ReportData) -> Chart:
    """Lay out score (percent) over pruning rounds, dense before the first of them."""
    names = dict.fromkeys(arm.arm for arm in data.arms if arm.arm != "dense")
    start = Point(0, data.dense.score)
    series = []
    for name in names:
        points = tuple(Point(arm.round, arm.score, arm.low, arm.high) for arm in data.arms if arm.arm == name)
        series.append(Series(_called(name), (start, *points) if len(points) > 1 else points, line=len(points) > 1))
    return score_chart("Score over rounds", data.metric, data.dense.score, series, "pruning round")


def score_chart(title: str, metric: str, dense: float, series: Iterable[Series], x_label: str = SPARSITY) -> Chart:
    """Lay out scores in percent: a series for each arm, dense and its 99 % as lines."""
    lines = (Reference(f"dense {dense:.2f}", dense), Reference("99 % of dense", RELAXED * dense))
    return Chart(title, x_label, f"{metric}, %", tuple(series), lines)


def accuracy_caption(data: ReportData) -> str:
    """Say what the chart's bars are, what was scored, and what is as good as dense for sure."""
    bars = (
        "A single seed: bars are the 95 % bootstrap interval, over examples, of the difference from dense"
        if data.ticket.seeds == 1
        else f"Mean of {data.ticket.seeds} seeds; bars are one standard deviation over seeds"
    )
    surely = non_inferior(data.arms)
    end = f" {surely[0].upper()}{surely[1:]}." if surely else ""
    return f"{bars}. {data.data.examples} examples of split {data.recipe['data']['score']}.{end}"


def accuracy_table(data: ReportData) -> Table:
    """Tabulate every arm at every level with its verdict."""
    header = ("arm", "round", "sparsity %", "score", "± s.d.", "of dense %", *LEVELS)
    return Table("", header, tuple(_row(arm) for arm in data.arms), text_columns=(0, 6, 7, 8))


def block_cost_table(data: ReportData) -> Table | None:
    """Tabulate what blocks cost in every round; None where the control without blocks was not run."""
    if data.block_cost is None:
        return None
    last = data.block_cost[-1]
    title = (
        f"What blocks cost: at {100 * last.sparsity:.1f} % sparsity they {'cost' if last.cost >= 0 else 'gain'} "
        f"{abs(last.cost):.2f} points against pruning without blocks ({seeds_words(last.seeds)}). In every round:"
    )
    header = (
        "round", "block sparsity %", "block score", "unstructured sparsity %", "unstructured score", "cost", "± s.d.",
    )  # fmt: skip
    rows = (
        (
            str(one.round),
            f"{100 * one.sparsity:.1f}",
            f"{one.ticket:.2f}",
            f"{100 * one.unstructured_sparsity:.1f}",
            f"{one.unstructured:.2f}",
            f"{one.cost:+.2f}",
            "" if one.cost_sd is None else f"{one.cost_sd:.2f}",
        )
        for one in data.block_cost
    )
    return Table(title, header, tuple(rows))


def _series(name: str, arms: list[ArmScore]) -> Series:
    points = tuple(Point(100 * arm.sparsity, arm.score, arm.low, arm.high) for arm in arms)
    return Series(_called(name), points, line=len(arms) > 1)


def _called(arm: str) -> str:
    return "ticket" if arm == "ticket" else f"control: {arm}"


def _row(arm: ArmScore) -> tuple[str, ...]:
    return (
        arm.arm,
        str(arm.round),
        f"{100 * arm.sparsity:.1f}",
        f"{arm.score:.2f}",
        "" if arm.sd is None else f"{arm.sd:.2f}",
        f"{100 * arm.of_dense:.1f}",
        *(arm.levels[name].outcome if arm.levels else "" for name in LEVELS),
    )

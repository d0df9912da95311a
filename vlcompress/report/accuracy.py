"""What the report says about accuracy: the chart, the arms and their verdicts, and what blocks cost."""

from collections.abc import Sequence

from vlcompress.artefacts import Json
from vlcompress.report.facts import LEVELS
from vlcompress.report.markup import figure, paragraph, section, table
from vlcompress.report.plots import Chart, Point, Reference, Series, inline
from vlcompress.report.words import seeds_words
from vlcompress.tickets.verdict import RELAXED


def accuracy_section(facts: Json) -> str:
    """Show the score of every arm against its sparsity, and the verdicts."""
    return section(
        "Accuracy against sparsity",
        figure(inline(accuracy_chart(facts)), _caption(facts)),
        table(
            ("arm", "round", "sparsity %", "score", "± s.d.", "of dense %", *LEVELS),
            [_row(arm) for arm in facts["arms"]],
            text_columns=(0, 6, 7, 8),
        ),
        _how_to_read(facts),
        _block_cost(facts["block_cost"]),
    )


def accuracy_chart(facts: Json) -> Chart:
    """Lay out score (percent) against sparsity (percent): a series for each arm, dense and its 99 % as lines."""
    dense = _dense(facts["arms"])
    names = list(dict.fromkeys(arm["arm"] for arm in facts["arms"] if arm["arm"] != "dense"))
    return Chart(
        title="Accuracy against sparsity",
        x_label="sparsity of the prunable weights, %",
        y_label=f"{facts['metric']}, %",
        series=tuple(_series(name, facts["arms"]) for name in names),
        references=(Reference(f"dense {dense:.2f}", dense), Reference("99 % of dense", RELAXED * dense)),
    )


def _dense(arms: Sequence[Json]) -> float:
    return float(next(arm["score"] for arm in arms if arm["arm"] == "dense"))


def _series(name: str, arms: Sequence[Json]) -> Series:
    mine = [arm for arm in arms if arm["arm"] == name]
    points = (Point(100 * arm["sparsity"], arm["score"], arm["low"], arm["high"]) for arm in mine)
    label = "ticket" if name == "ticket" else f"control: {name}"
    return Series(label, tuple(points), line=len(mine) > 1)


def _caption(facts: Json) -> str:
    seeds = facts["ticket"]["seeds"]
    bars = (
        "A single seed: bars are the 95 % bootstrap interval, over examples, of the difference from dense"
        if seeds == 1
        else f"Mean of {seeds} seeds; bars are one standard deviation over seeds"
    )
    return f"{bars}. {facts['data']['examples']} examples of split {facts['recipe']['data']['score']}."


def _row(arm: Json) -> tuple[str, ...]:
    outcomes = [arm["levels"][name]["outcome"] if arm["levels"] else "" for name in LEVELS]
    return (
        arm["arm"],
        str(arm["round"]),
        f"{100 * arm['sparsity']:.1f}",
        f"{arm['score']:.2f}",
        "" if arm["sd"] is None else f"{arm['sd']:.2f}",
        f"{100 * arm['of_dense']:.1f}",
        *outcomes,
    )


def _how_to_read(facts: Json) -> str:
    return paragraph(
        "strict: at least the dense score; matching: within one standard deviation of it; relaxed: at least 99 % of "
        "it. “pass within noise” is below the line, but the 95 % interval of the difference reaches it. “no verdict”: "
        "the dense model is no better than one that does not look. "
        f"From {seeds_words(facts['ticket']['seeds'])}."
    )


def _block_cost(costs: Sequence[Json] | None) -> str:
    if costs is None:
        return ""
    last = costs[-1]
    verb = "cost" if last["cost"] >= 0 else "gain"
    return paragraph(
        f"What blocks cost: at {100 * last['sparsity']:.1f} % sparsity they {verb} {abs(last['cost']):.2f} points "
        f"against pruning without blocks ({seeds_words(last['seeds'])}). In every round:"
    ) + table(
        ("round", "block sparsity %", "block score", "unstructured sparsity %", "unstructured score", "cost", "± s.d."),
        [_cost_row(cost) for cost in costs],
    )


def _cost_row(cost: Json) -> tuple[str, ...]:
    return (
        str(cost["round"]),
        f"{100 * cost['sparsity']:.1f}",
        f"{cost['ticket']:.2f}",
        f"{100 * cost['unstructured_sparsity']:.1f}",
        f"{cost['unstructured']:.2f}",
        f"{cost['cost']:+.2f}",
        "" if cost["cost_sd"] is None else f"{cost['cost_sd']:.2f}",
    )

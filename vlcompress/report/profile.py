"""A speed profile as plain text."""

from collections.abc import Iterator

from vlcompress.report.table import Table, terminal
from vlcompress.report.text import place_text
from vlcompress.results import ProfileResult


def profile_text(result: ProfileResult) -> str:
    """Lay out layers, whole models and advice."""
    asked, where = result.asked, result.environment
    sparsities = tuple(f"{100 * sparsity:g} %" for sparsity in asked["sparsities"])
    return "\n".join(
        [
            f"{asked['model']} {asked['size']}, random weights and masks, ONNX Runtime, {asked['threads']} thread(s), "
            f"{where['cpu']}, onnxruntime {where['packages'].get('onnxruntime', '?')}",
            *place_text(asked["compute"], asked["provider"]),
            "",
            "one layer, times faster than dense",
            terminal(Table("", ("pattern", "layer", "rows", "form", *sparsities, "even at"), tuple(_layers(result)))),
            "",
            "the whole model, times faster than dense (95 % interval), checked against PyTorch",
            terminal(Table("", ("pattern", "form", "batch", *sparsities, "even at", "load s"), tuple(_models(result)))),
            "",
            *result.advice,
        ]
    )


def _layers(result: ProfileResult) -> Iterator[tuple[str, ...]]:
    for row in result.layers:
        for form, even in row.break_even.items():
            speeds = (f"{point.forms[form].speedup:.2f}" if form in point.forms else "-" for point in row.points)
            yield (row.pattern, "x".join(map(str, row.shape)), str(row.rows), form, *speeds, _even(even))


def _models(result: ProfileResult) -> Iterator[tuple[str, ...]]:
    for row in result.models:
        load = max(point.load_s for point in row.points)
        for batch, even in row.break_even.items():
            ratios = {point.sparsity: point.batches[batch].speedup for point in row.points}
            speeds = (
                f"{ratios[at].value:.2f} ({ratios[at].low:.2f}-{ratios[at].high:.2f})" if at in ratios else "-"
                for at in result.asked["sparsities"]
            )
            yield (row.pattern, row.form, batch, *speeds, _even(even), f"{load:.1f}")


def _even(sparsity: float | None) -> str:
    return "never" if sparsity is None else f"{100 * sparsity:.0f} %"

"""A speed profile as plain text."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlcompress.artefacts import Json
from vlcompress.report.table import Table, terminal
from vlcompress.report.text import place_text


def profile_text(record: Mapping[str, Any]) -> str:
    """Lay out what `vlcompress.bench.profile.profile` measured: layers, whole models, advice."""
    asked, where = record["asked"], record["environment"]
    sparsities = tuple(f"{100 * sparsity:g} %" for sparsity in asked["sparsities"])
    return "\n".join(
        [
            f"{asked['model']} {asked['size']}, random weights and masks, ONNX Runtime, {asked['threads']} thread(s), "
            f"{where['cpu']}, onnxruntime {where['packages'].get('onnxruntime', '?')}",
            *place_text(asked["compute"], asked["provider"]),
            "",
            "one layer, times faster than dense",
            terminal(Table("", ("pattern", "layer", "rows", "form", *sparsities, "even at"), tuple(_layers(record)))),
            "",
            "the whole model, times faster than dense (95 % interval), checked against PyTorch",
            terminal(Table("", ("pattern", "form", "batch", *sparsities, "even at", "load s"), tuple(_models(record)))),
            "",
            *record["advice"],
        ]
    )


def _layers(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in record["layers"]:
        for form, even in row["break_even"].items():
            cells = [_speedup(point["forms"].get(form)) for point in row["points"]]
            shape = "x".join(map(str, row["shape"]))
            yield (row["pattern"], shape, str(row["rows"]), form, *cells, _even(even))


def _models(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in record["models"]:
        points = {point["sparsity"]: point for point in row["points"]}
        load = max(point["load_s"] for point in row["points"])
        for batch, even in row["break_even"].items():
            cells = [
                _ratio(points[sparsity]["batches"][batch]["speedup"]) if sparsity in points else "-"
                for sparsity in record["asked"]["sparsities"]
            ]
            yield (row["pattern"], row["form"], batch, *cells, _even(even), f"{load:.1f}")


def _speedup(found: Json | None) -> str:
    return "-" if found is None else f"{found['speedup']:.2f}"


def _ratio(found: Json) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def _even(sparsity: float | None) -> str:
    return "never" if sparsity is None else f"{100 * sparsity:.0f} %"

"""What a speed profile means, in words."""

from collections.abc import Mapping
from typing import Any

from vlcompress.artefacts import Json
from vlcompress.export.native.build import built

ACCURACY = (
    "accuracy is not measured here: nothing was trained; `vlcompress prune` finds how much a pattern can lose, and "
    "finer blocks lose less; `vlcompress study granularity` shows what tickets of a task keep, by pattern and sparsity"
)


def advice(record: Mapping[str, Any]) -> list[str]:
    """Say for each batch size which pattern is worth what, the best one first.

    Args:
        record: what `profile` measured: "asked" and "models".
    """
    sparsities = record["asked"]["sparsities"]
    middle = min(sparsities, key=lambda sparsity: abs(sparsity - 0.7))
    lines = []
    for batch in record["asked"]["batches"]:
        ranked = sorted(record["models"], key=lambda row: -_speedup(row, middle, batch))
        lines += [_sentence(row, middle, batch) for row in ranked]
    lines += [_none(pattern) for pattern in record["asked"]["patterns"] if not _rows(record, pattern)]
    if built() is None:
        lines.append("with `vlcompress native build`, blocks of 16 rows and more run faster, down to one column (16x1)")
    return [*lines, ACCURACY]


def _sentence(row: Json, sparsity: float, batch: int) -> str:
    found = _point(row, sparsity)["batches"][str(batch)]["speedup"]
    what = f"{row['pattern'].removeprefix('block:')} at {100 * sparsity:g} % ({row['form']}), batch {batch}"
    even = row["break_even"][str(batch)]
    if found["low"] <= 1 or even is None:
        return f"{what}: no faster than dense: prune otherwise"
    return f"{what}: {found['value']:.2f}x dense; faster than dense from {100 * even:.0f} % on"


def _none(pattern: str) -> str:
    return f"{pattern.removeprefix('block:')}: no form is faster than dense on this machine, layers would stay dense"


def _rows(record: Mapping[str, Any], pattern: str) -> list[Json]:
    return [row for row in record["models"] if row["pattern"] == pattern]


def _speedup(row: Json, sparsity: float, batch: int) -> float:
    return float(_point(row, sparsity)["batches"][str(batch)]["speedup"]["value"])


def _point(row: Json, sparsity: float) -> Json:
    """Return the point at a sparsity, or the nearest one at which the form exists."""
    found: Json = min(row["points"], key=lambda point: abs(point["sparsity"] - sparsity))
    return found

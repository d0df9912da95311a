"""What a speed profile means, in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlcompress.export.native.build import built
from vlcompress.results import ModelPoint, ModelProfile

if TYPE_CHECKING:
    from vlcompress.bench.profile import ProfileConfig

ACCURACY = (
    "accuracy is not measured here: nothing was trained; `vlcompress prune` finds how much a pattern can lose, and "
    "finer blocks lose less; `vlcompress study granularity` shows what tickets of a task keep, by pattern and sparsity"
)


def advice(models: Sequence[ModelProfile], asked: "ProfileConfig") -> list[str]:
    """Say for each batch size which pattern is worth what, the best one first."""
    middle = min(asked.sparsities, key=lambda sparsity: abs(sparsity - 0.7))
    lines = []
    for batch in map(str, asked.batches):
        ranked = sorted(models, key=lambda row: -_point(row, middle).batches[batch].speedup.value)
        lines += [_sentence(row, middle, batch) for row in ranked]
    without = [pattern for pattern in asked.patterns if all(row.pattern != pattern for row in models)]
    lines += [
        f"{_short(pattern)}: no form is faster than dense on this machine, layers would stay dense"
        for pattern in without
    ]
    if built() is None:
        lines.append("with `vlcompress native build`, blocks of 16 rows and more run faster, down to one column (16x1)")
    return [*lines, ACCURACY]


def _sentence(row: ModelProfile, sparsity: float, batch: str) -> str:
    speedup = _point(row, sparsity).batches[batch].speedup
    what = f"{_short(row.pattern)} at {100 * sparsity:g} % ({row.form}), batch {batch}"
    even = row.break_even[batch]
    if speedup.low <= 1 or even is None:
        return f"{what}: no faster than dense: prune otherwise"
    return f"{what}: {speedup.value:.2f}x dense; faster than dense from {100 * even:.0f} % on"


def _point(row: ModelProfile, sparsity: float) -> ModelPoint:
    """Pick the point at a sparsity, or the nearest one at which the form exists."""
    return min(row.points, key=lambda point: abs(point.sparsity - sparsity))


def _short(pattern: str) -> str:
    return pattern.removeprefix("block:")

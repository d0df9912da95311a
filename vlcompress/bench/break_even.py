"""From which sparsity on a form is faster than dense."""

from collections.abc import Mapping

import numpy as np


def break_even(dense: float, times: Mapping[float, float]) -> float | None:
    """Find the sparsity at which a form takes as long as dense.

    Time is nearly linear in what is kept: a part that stays, and a part for each weight. The line is fitted to the
    measured points. One point alone tells of itself only: its sparsity, if it is faster.

    Args:
        dense: time of the dense form.
        times: time of the form by sparsity, in the same unit.

    Returns:
        A sparsity in [0, 1], 0 if the form is as fast as dense with all its weights; None if no sparsity is enough.
    """
    if len(times) == 1:
        ((sparsity, time),) = times.items()
        return sparsity if time < dense else None
    kept = np.array([1.0 - sparsity for sparsity in times])
    slope, fixed = np.polyfit(kept, np.array(list(times.values())), 1)
    if fixed >= dense or slope <= 0:
        return 0.0 if max(times.values()) < dense else None
    return round(float(np.clip(1.0 - (dense - fixed) / slope, 0.0, 1.0)), 3)

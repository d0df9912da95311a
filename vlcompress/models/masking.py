"""What masked prediction draws: which words or regions are asked for, and what is shown in their place."""

import torch
from torch import Tensor


def mlm_mask(candidates: Tensor, rate: float, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what is asked for (`rate` of the candidates), hidden (80 % of these) and replaced at random (10 %).

    Args:
        candidates: bool, any shape.
        rate: chance of each, 0 to 1.
        rng: the only source of chance.

    Returns:
        Three bool tensors of that shape; the remaining tenth of what is asked for is shown as it is.
    """
    draw = torch.rand(candidates.shape, generator=rng).masked_fill(~candidates, 1.0)
    asked = draw < rate
    hidden = draw < 0.8 * rate
    return asked, hidden, (draw < 0.9 * rate) & ~hidden


def places(asked_BT: Tensor) -> Tensor:
    """Return row and column of each true entry of a bool mask, int64 [n, 2].

    Batches hold them beside their masks: a GPU that has to find them makes the host wait for their number.
    """
    return asked_BT.nonzero()


def at(x: Tensor, places_N2: Tensor) -> Tensor:
    """Return the rows [n, ...] of `x` [B, T, ...] at `places`."""
    rows_N, columns_N = places_N2.unbind(1)
    return x[rows_N, columns_N]

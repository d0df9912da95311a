"""First-order saliency of weights, summed while they are trained.

With w a weight before a step and g the loss's gradient there (before any clipping), the product w g is to first order
what the loss loses when w goes. Two readings of it are in use:

*gradient* sums |w g|: how much the loss would change (Molchanov et al., CVPR 2019; the diagonal first-order form of
LeCun et al., 1990). It holds for the weights as they are at that step, and what is pruned is the trained network. So it
is summed over the last `LAST` of the training, where the weights are close to the trained ones; the large gradients of
a head that is still new would drown it.

*movement* sums -w g over the whole training: positive where the gradient pushes a weight away from zero, negative where
it pulls it there (Sanh et al., NeurIPS 2020, who sum over the whole of fine-tuning as well).

Nothing of the training changes: the sums only read.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["gradient", "movement"]

LAST = 0.2
"""Share of the steps, at the end, over which "gradient" is summed."""


class Saliency:
    """Running sums for some weights of a model under training.

    Args:
        kind: "gradient" or "movement".
        model: whose weights; the sums lie on its device.
        names: of the weights.
        steps: of the whole training.
    """

    def __init__(self, kind: Kind, model: nn.Module, names: Iterable[str], steps: int) -> None:
        parameters = dict(model.named_parameters())
        self._kind = kind
        self._weights = {name: parameters[name] for name in names}
        self._first = steps - max(1, round(LAST * steps)) if kind == "gradient" else 0
        self.sums = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in self._weights.items()}

    @torch.no_grad()
    def add(self, step: int, *, overflows: bool = False) -> None:
        """Take in the gradients at hand, before step `step` (from 0) uses them; weights without one add nothing.

        Args:
            step: about to be taken.
            overflows: whether gradients may be infinite or NaN, as those of a scaled float16 loss: such steps are not
                taken, and add nothing.
        """
        if step < self._first:
            return
        for name, weight in self._weights.items():
            if weight.grad is not None:
                product = weight * weight.grad
                if overflows:
                    product.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
                self.sums[name].add_(product.abs_() if self._kind == "gradient" else product.neg_())

    @torch.no_grad()
    def restore(self, sums: Mapping[str, Tensor]) -> None:
        """Go on from the sums of an interrupted training."""
        for name, total in self.sums.items():
            total.copy_(sums[name])

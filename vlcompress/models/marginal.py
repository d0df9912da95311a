"""What pre-training objectives give a model that looks at nothing: the loss of one answer, the best, to all they ask.

Shapes: N rows that are asked for, C classes, F features.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Error = Callable[[Tensor, Tensor], Tensor]
"""(said, wanted), of the same shape, to the error of each element."""


@dataclass(frozen=True)
class Asked:
    """What one loss asks for in a batch: it is a sum over rows, each times its weight.

    Attributes:
        wanted: classes int64 [N], their probabilities float [N, C], or features float [N, F].
        weight: float32 [N]; a row of weight 0 is not asked for.
        error: of features, whose loss is its mean over F; None for classes.
    """

    wanted: Tensor
    weight: Tensor
    error: Error | None = None

    def total(self) -> Tensor:
        """Add up what is wanted, as probabilities of the classes up to the highest, or features: float64 [C] or [F]."""
        if self.wanted.is_floating_point():
            return self.weight.double() @ self.wanted.double()
        there = self.weight > 0
        return torch.bincount(self.wanted[there], self.weight[there].double()).double()  # of none it is float32

    def loss(self, said: Tensor) -> Tensor:
        """Compute the loss, a scalar, of saying the same of every row: probabilities [C] or features [F]."""
        there = self.weight > 0
        wanted, weight_N = self.wanted[there], self.weight[there].double()
        if self.error is not None:
            return weight_N @ self.error(said.expand_as(wanted), wanted.double()).mean(dim=-1)
        if wanted.is_floating_point():
            return weight_N @ (torch.xlogy(wanted, wanted) - torch.xlogy(wanted, said)).sum(dim=-1).double()
        return -(weight_N @ said[wanted].log())


def labelled(labels_N: Tensor, nothing: int) -> Asked:
    """Ask for the mean cross-entropy of the rows whose label is not `nothing`; 0 where none has one."""
    there = labels_N[labels_N != nothing]
    return Asked(there, torch.full((len(there),), 1 / max(1, len(there))))


def constant_losses(batches: Callable[[], Iterable[Mapping[str, Asked]]]) -> Tensor:
    """Compute the loss of each batch, float32 [batches], of one answer to all of them.

    The answer is the mean of what is wanted: the best there is by cross-entropy, divergence and squared error, and
    nearly so by smooth L1.

    Args:
        batches: makes the batches, by name of the loss; called twice, so that none has to be kept.
    """
    totals: dict[str, Tensor] = {}
    weights: dict[str, float] = {}
    for batch in batches():
        for name, asked in batch.items():
            totals[name] = _sum(totals.get(name), asked.total())
            weights[name] = weights.get(name, 0.0) + float(asked.weight.double().sum())
    said = {name: total / (weights[name] or 1.0) for name, total in totals.items()}
    return torch.tensor([sum(float(asked.loss(said[name])) for name, asked in one.items()) for one in batches()])


def _sum(before: Tensor | None, more: Tensor) -> Tensor:
    """Add, where one of both may not have seen the highest classes yet."""
    if before is None:
        return more
    width = max(len(before), len(more))
    return pad(before, (0, width - len(before))) + pad(more, (0, width - len(more)))

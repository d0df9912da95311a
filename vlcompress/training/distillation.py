"""Distillation: a sparse model learns what the dense one says, besides the task's own answers.

To the task's loss, weight x (logits + hidden states) is added. *Logits*: the task's kind of loss with what the dense
model says in the place of the answers (Hinton et al., 2015, at temperature 1): binary cross entropy for a closed list
of answers, which are scored one by one, and the Kullback-Leibler divergence for choices among rows. *Hidden states*:
the mean squared distance of what the two heads read, the pooled output or a region's last layer (as in the last layer
of TinyBERT, Jiao et al., 2020; both models have the same width, so nothing is projected).

Shapes: B rows of the targets, K what is chosen from.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, mse_loss

from vlcompress.models.base import Family, HeadKind
from vlcompress.models.objective import Batch, row_share
from vlcompress.tasks.base import LogitTask


class Distilled:
    """A task with the dense model as a second teacher.

    Args:
        task: gives examples and the loss.
        family: of both models.
        teacher: the dense model, on the device of the training; it is put in eval mode and takes no gradient.
        weight: of the teacher against the task, above 0.
    """

    def __init__(self, task: LogitTask, family: Family, teacher: nn.Module, weight: float) -> None:
        self._task, self._family, self._weight = task, family, weight
        self.compares = task.compares
        self._teacher = teacher.eval().requires_grad_(False)

    def __len__(self) -> int:
        return len(self._task)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the task's batch."""
        return self._task.batch(indices, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Add the teacher's loss to the task's."""
        with torch.no_grad(), head_inputs(self._teacher, self._family.backbone_prefix) as wanted:
            teacher = self._family.logits(self._teacher, batch.inputs)
        with head_inputs(model, self._family.backbone_prefix) as read:
            logits = self._family.logits(model, batch.inputs)
        taught = logits_loss(self._task.head.kind, logits, teacher, batch.targets)
        if wanted:  # a head without a linear layer of its own gives none
            # always a mean over rows: where the task's loss is a sum, it is the part's share that is added
            share = row_share(batch) / self._task.share(batch)
            taught = taught + share * mse_loss(read[0], wanted[0])
        return self._task.loss_of(logits, batch.targets) + self._weight * taught

    def share(self, part: Batch) -> float:
        """See `vlcompress.models.objective.Divisible`."""
        return self._task.share(part)


def logits_loss(kind: HeadKind, logits: Tensor, teacher: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Compute the distance of `logits` to the dense model's, a scalar reduced as the task's loss is.

    Args:
        kind: of the head, see `HeadKind`.
        logits: as `Family.logits` gives them.
        teacher: the dense model's, in the same shape.
        targets: of the batch; their rows say what belongs together where logits are flat ("match").
    """
    rows = len(next(iter(targets.values())))
    logits_BK, teacher_BK = logits.reshape(rows, -1), teacher.reshape(rows, -1)
    if kind == "answers":
        return binary_cross_entropy_with_logits(logits_BK, teacher_BK.sigmoid()) * teacher_BK.shape[1]
    reduction = "sum" if kind == "region" else "batchmean"
    return kl_div(logits_BK.log_softmax(dim=1), teacher_BK.log_softmax(dim=1), reduction=reduction, log_target=True)


@contextmanager
def head_inputs(model: nn.Module, backbone_prefix: str) -> Iterator[list[Tensor]]:
    """Yield a list that fills, while the model runs in the block, with what the head's linear layers read, in order."""
    read: list[Tensor] = []
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(backbone_prefix)
    ]
    handles = [layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])) for layer in layers]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()

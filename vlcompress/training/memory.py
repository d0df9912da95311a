"""Fitting a training into a device's memory: batches that are learned in parts, one after the other.

The parts are rows of the batch that the step would take anyway, padded as it is, and each part's loss is weighed as it
counts in the batch's (`vlcompress.models.objective.Divisible`). So gradients are the batch's up to rounding, whatever
the size of the parts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlcompress.devices import Compute
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch, Divisible, Objective
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.sampling import MULTIPLE


def parts(batch: Batch, examples: int, most: int, mine: range | None = None) -> Iterator[Batch]:
    """Cut a batch into parts of at most `most`; 0, or no fewer than there are, leaves whole what is to be cut.

    Args:
        batch: of `examples`.
        examples: how many it has.
        most: examples of a part.
        mine: those to take; None takes all.
    """
    mine = range(examples) if mine is None else mine
    size = most if 0 < most < len(mine) else len(mine)
    if size == examples:
        yield batch
        return
    for first in range(mine.start, mine.stop, size):
        yield batch.part(range(first, min(first + size, mine.stop)), examples)


def share_of(rank: int, devices: int, examples: int) -> range:
    """Say which of a batch's examples the process of rank `rank` learns."""
    return range(examples * rank // devices, examples * (rank + 1) // devices)


def check_shared(model: nn.Module, objective: Objective, hyper: Hyperparameters, devices: int) -> None:
    """Refuse to share a training among devices where that is another training, or leaves one without an example.

    Raises:
        VlcompressError: see `check_divisible`, or a step has fewer examples than there are devices.
    """
    check_divisible(model, objective, "--devices", "train on one device instead")
    least = MULTIPLE if hyper.tokens else min(hyper.batch, len(objective))
    if least < devices and not (hyper.tokens and hyper.batch % devices == 0):
        what = "a group of words and regions may have" if hyper.tokens else "a step has"
        raise VlcompressError(f"--devices {devices}: {what} {least} examples, and each device needs one")


def check_divisible(
    model: nn.Module, objective: Objective, what: str = "micro-batches", instead: str = "lower --batch instead"
) -> Divisible:
    """Refuse to learn batches in parts where that is another training; `what` asks for it, `instead` is the fix.

    Raises:
        VlcompressError: batch normalisation, or a loss that compares the examples of a batch with one another.
    """
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        why = "the model normalises over the batch (batch normalisation)"
    elif not isinstance(objective, Divisible) or getattr(objective, "compares", False):
        why = "this loss compares the examples of a batch with one another, or does not say how it adds up over them"
    else:
        return objective
    raise VlcompressError(f"{what}: {why}, so that parts of a batch learn something else: {instead}")


def largest_that_fits(attempt: Callable[[int], None], examples: int) -> int:
    """Find the most examples, `examples` halved until they fit, that `attempt` has the memory for; 0 if not even one.

    Args:
        attempt: computes what takes the memory, in parts of so many examples.
        examples: of the batch.
    """
    size = examples
    while size:
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            size = (size + 1) // 2 if size > 1 else 0
        else:
            return size
        torch.cuda.empty_cache()  # here, where the exception holds no tensor any more
    return 0


@contextmanager
def memory_share(compute: Compute, share: float) -> Iterator[None]:
    """Let no more than a share of a GPU's memory be taken in the block."""
    if not compute.on_gpu:
        yield
        return
    torch.cuda.set_per_process_memory_fraction(share, compute.torch_device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, compute.torch_device)

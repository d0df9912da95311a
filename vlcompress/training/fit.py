"""Before a training: the micro-batch that fits into memory."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from vlcompress.devices import AUTO, Compute, MicroBatch, precision
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Objective
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.memory import check_divisible, check_shared, largest_that_fits, memory_share
from vlcompress.training.sampling import sampler_of, token_lengths
from vlcompress.training.step import Stepper, drawn, optimizer_of, scaler_of

PROBED = 3
"""Batches that are tried for the largest micro-batch."""
PROBED_SHARE = 0.85
"""Of the memory, that they may take."""


def fitted(
    compute: Compute,
    hyper: Hyperparameters,
    training: Callable[[], tuple[nn.Module, Objective]],
    say: Callable[[str], None],
) -> Compute:
    """Settle what a device learns at once before anything is trained: check what is asked for, or find what fits.

    Args:
        compute: where to train; its micro-batch is a number, or `AUTO`.
        hyper: of the training.
        training: makes a model and what it is to learn, to be thrown away; not called where whole batches are learned.
        say: told what has no effect, and what was found.

    Raises:
        VlcompressError: batches that cannot be learned in parts or by several devices, or not even one example fits.
    """
    asked = compute.micro_batch
    whole = replace(compute, micro_batch=MicroBatch(0))
    if compute.devices > 1:
        check_shared(*training(), hyper, compute.devices)
    if not asked:
        return compute
    if not hyper.tokens and asked != AUTO and compute.for_batch(hyper.batch) == whole:
        each = f", {-(-hyper.batch // compute.devices)} on each device" if compute.devices > 1 else ""
        say(f"warning: micro-batch {asked} has no effect: a step has {hyper.batch} examples{each}")
        return whole
    if asked == AUTO and not compute.on_gpu:
        say("warning: micro-batch auto has no effect on the CPU: it is about a GPU's memory; whole batches are taken")
        return whole
    model, objective = training()
    if asked != AUTO:
        check_divisible(model, objective)
        return compute
    found = _largest_micro_batch(model.to(compute.torch_device), objective, hyper, whole)
    of = "" if hyper.tokens else f" of a step's {hyper.batch}"
    say(f"micro-batch auto: {found}{of} examples at once (give this number to keep to it)")
    return replace(compute, micro_batch=MicroBatch(found)).for_batch(float("inf") if hyper.tokens else hyper.batch)


def _largest_micro_batch(model: nn.Module, objective: Objective, hyper: Hyperparameters, compute: Compute) -> int:
    """Try steps on `PROBED` batches in the memory's `PROBED_SHARE`, for batches to come may have longer texts.

    Raises:
        VlcompressError: not even one example fits.
    """
    try:
        check_divisible(model, objective)
    except VlcompressError:
        return hyper.batch
    stepper = Stepper(
        model.train(), objective, optimizer_of(model, hyper, ""), hyper, compute, None, scaler_of(compute)
    )
    sampler = sampler_of(len(objective), hyper, 0, token_lengths(objective) if hyper.tokens else ())
    steps = [drawn(objective, sampler, 0, step) for step in range(PROBED)]

    def attempt(most: int) -> None:
        for groups in steps:
            stepper.try_step(groups, most)

    with precision(compute), memory_share(compute, PROBED_SHARE):
        found = largest_that_fits(attempt, max(examples for groups in steps for _, examples in groups))
    if not found:
        raise VlcompressError(
            f"not even one example fits into the memory of {compute.device}: take a smaller model or a larger device"
        )
    return found

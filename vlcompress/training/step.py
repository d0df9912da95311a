"""One optimizer step: the gradients of a batch, in parts that fit into memory, and what is made of them."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vlcompress.devices import Compute, autocast
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch, Divisible, Objective
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.memory import check_divisible, largest_that_fits, parts, share_of
from vlcompress.training.optimizers import OPTIMIZERS, rate
from vlcompress.training.ranks import rank_here
from vlcompress.training.saliency import Saliency
from vlcompress.training.sampling import StepSampler, generator

Group = tuple[Batch, int]
"""A batch and its number of examples."""


def drawn(objective: Objective, sampler: StepSampler, seed: int, step: int) -> list[Group]:
    """Make the batches of a step: all their chance is of (seed, step)."""
    rng = generator(seed, "batch", step)
    return [(objective.batch(indices, rng), len(indices)) for indices in sampler.groups(step)]


@dataclass(frozen=True)
class Stepper:
    """Optimizer steps: gradients of a batch, sums, clipping, rate.

    Attributes:
        scaler: of float16 losses, whose small gradients would be 0 otherwise; None elsewhere.
        shared: the loss as `shared_loss` makes it, where several devices learn each batch.
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    hyper: Hyperparameters
    compute: Compute
    saliency: Saliency | None
    scaler: torch.amp.GradScaler | None
    shared: DistributedDataParallel | None = None

    def learn(self, groups: Sequence[Group], step: int) -> Tensor:
        """Take the gradients of the mean loss of some groups of examples, and give that loss, all devices' together.

        Raises:
            VlcompressError: out of memory; names the micro-batch that fits.
        """
        try:
            loss = self._gradients(groups, self.compute.micro_batch)
        except torch.OutOfMemoryError:
            pass  # what failed is let go of before more is tried
        else:
            if self.shared is not None:
                torch.distributed.all_reduce(loss)
            return loss
        raise _too_large(replace(self, shared=None), groups, step)

    def _gradients(self, groups: Sequence[Group], most: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        *early, last = self._parts(groups, most)
        with nullcontext() if self.shared is None else self.shared.no_sync():  # devices add up once a step
            losses = [self._backward(part, len(groups)) for part in early]
        losses.append(self._backward(last, len(groups)))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _parts(self, groups: Sequence[Group], most: int) -> Iterator[Batch]:
        """Cut what this device learns: every so many groups where these can be dealt evenly, else its rows of each."""
        rank, devices = rank_here(), self.compute.devices
        dealt = len(groups) % devices == 0
        for batch, examples in groups[rank::devices] if dealt else groups:
            yield from parts(batch, examples, most, None if dealt else share_of(rank, devices, examples))

    def _backward(self, part: Batch, groups: int) -> Tensor:
        batch = part.to(self.compute.torch_device)
        with autocast(self.compute):
            loss: Tensor = self.objective.loss(self.model, batch) if self.shared is None else self.shared(batch)
        if part.whole is not None and isinstance(self.objective, Divisible):
            loss = loss * self.objective.share(part)
        if groups > 1:
            loss = loss / groups
        counted = loss.detach()
        if self.shared is not None:
            loss = loss * self.compute.devices  # gradients become the mean over devices, and are to be the sum
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        return counted

    def step(self, step: int) -> Tensor:
        """Take step `step` (from 0) along the gradients at hand, and give their norm before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.saliency is not None:
            self.saliency.add(step, overflows=self.scaler is not None)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hyper.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate(self.hyper.optimizer, step + 1, self.hyper.steps, self.hyper.warmup)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)  # not taken where gradients overflowed
            self.scaler.update()
        return norm

    def try_step(self, groups: Sequence[Group], most: int) -> None:
        """Take a step that counts for nothing, in parts of at most `most`: for the memory that it needs."""
        self._gradients(groups, most)
        self.step(0)


class _Loss(nn.Module):
    """A model's loss as a module, for gradients are added up of what goes through a module's forward pass."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self._loss = model, objective.loss

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(self.model, batch)


def shared_loss(model: nn.Module, objective: Objective) -> DistributedDataParallel:
    """Make the loss whose gradients are the mean over the devices of this process's group.

    Weights that a batch does not use are looked for in each step: a part may ask for fewer things than its whole. What
    is sent together then stays the same from the first step on, so that a resumed training has the same bits.
    """
    return DistributedDataParallel(_Loss(model, objective), find_unused_parameters=True, gradient_as_bucket_view=True)


def _too_large(stepper: Stepper, groups: Sequence[Group], step: int) -> VlcompressError:
    """Find out what fits where a step did not, and say so; the training is lost to it, its checkpoint is not."""
    most = max(examples for _, examples in groups)
    now = min(stepper.compute.micro_batch or most, most)
    what = f"step {step} does not fit into the memory of {stepper.compute.device} with {now} examples at once"
    try:
        check_divisible(stepper.model, stepper.objective)
    except VlcompressError:
        return VlcompressError(f"{what}: lower --batch, or take bf16")
    fits = largest_that_fits(lambda size: stepper.try_step(groups, size), (now + 1) // 2) if now > 1 else 0
    if not fits:
        return VlcompressError(f"{what}, nor does a single one: take a smaller model or a larger device")
    return VlcompressError(f"{what}: {fits} fit, add --micro-batch {fits}")


def optimizer_of(model: nn.Module, hyper: Hyperparameters, backbone_prefix: str) -> torch.optim.Optimizer:
    """Make the optimizer, with a group for each peak rate (backbone, head) and decay (matrices, all else)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        peak = hyper.learning_rate * (1.0 if name.startswith(backbone_prefix) else hyper.head_rate)
        decays = hyper.optimizer != "adamw" or parameter.dim() > 1
        groups.setdefault((peak, hyper.weight_decay if decays else 0.0), []).append(parameter)
    return OPTIMIZERS[hyper.optimizer](
        [{"params": params, "peak": peak, "weight_decay": decay} for (peak, decay), params in groups.items()], lr=0.0
    )


def scaler_of(compute: Compute) -> torch.amp.GradScaler | None:
    """Make the scaler of the losses where the dtype needs one."""
    return torch.amp.GradScaler(compute.torch_device.type) if compute.facts.scaled else None

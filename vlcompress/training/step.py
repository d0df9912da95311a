"""One optimizer step: the gradients of a batch, in parts that fit into memory, and what is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlcompress.devices import Compute, autocast
from vlcompress.errors import VlcompressError
from vlcompress.models.objective import Batch, Divisible, Objective
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.memory import check_divisible, largest_that_fits, parts
from vlcompress.training.optimizers import OPTIMIZERS, rate
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
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    hyper: Hyperparameters
    compute: Compute
    saliency: Saliency | None
    scaler: torch.amp.GradScaler | None

    def learn(self, groups: Sequence[Group], step: int) -> Tensor:
        """Take the gradients of the mean loss of some groups of examples, and give that loss.

        Raises:
            VlcompressError: out of memory; names the micro-batch that fits.
        """
        try:
            return self._gradients(groups, self.compute.micro_batch)
        except torch.OutOfMemoryError:
            pass  # what failed is let go of before more is tried
        raise _too_large(self, groups, step)

    def _gradients(self, groups: Sequence[Group], most: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        cut = [part for batch, examples in groups for part in parts(batch, examples, most)]
        losses = [self._backward(part, len(groups)) for part in cut]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _backward(self, part: Batch, groups: int) -> Tensor:
        with autocast(self.compute):
            loss = self.objective.loss(self.model, part.to(self.compute.torch_device))
        if part.whole is not None and isinstance(self.objective, Divisible):
            loss = loss * self.objective.share(part)
        if groups > 1:
            loss = loss / groups
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

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

"""The training loop. Every random number is a function of (seed, step), so that any step can be repeated or resumed."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from vlcompress.devices import CPU, Compute, autocast, precision
from vlcompress.errors import VlcompressError
from vlcompress.models.blocks import checkpoint_blocks
from vlcompress.models.objective import Objective
from vlcompress.pruning.mask import Masks
from vlcompress.tasks.base import EvalTask, Scores
from vlcompress.training.checkpoint import Checkpoint
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.memory import check_divisible, check_shared
from vlcompress.training.optimizers import rate
from vlcompress.training.ranks import check_place, rank_here
from vlcompress.training.saliency import Saliency
from vlcompress.training.sampling import ahead, clocked, mix, sampler_of
from vlcompress.training.step import Stepper, drawn, optimizer_of, scaler_of, shared_loss
from vlcompress.training.watching import Entry, Journal, peak_bytes

LOOK_EVERY = 16
"""Steps between looks at the losses on a GPU: a look waits until the GPU has done all that was queued."""


class MaskKeeper:
    """Keep pruned weights, and their optimizer state, at zero: bit-zero after every step.

    The numbers' bits are and-ed with all ones (keep) or all zeros (pruned): one fast pass, where a product with a mask
    would leave negative zeros and `masked_fill_` takes fourteen times as long on a CPU (bench/results/pruning).
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        masks.apply(model)
        parameters = dict(model.named_parameters())
        self._kept_bits = {parameters[name]: _bits(mask, parameters[name]) for name, mask in masks.items()}

    @torch.no_grad()
    def enforce(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero what is pruned in the weights and in moments of their form (a weight that is never used has none)."""
        for weight, bits in self._kept_bits.items():
            for tensor in (weight, *optimizer.state.get(weight, {}).values()):
                if isinstance(tensor, Tensor) and (tensor.shape, tensor.dtype) == (weight.shape, weight.dtype):
                    tensor.view(bits.dtype).bitwise_and_(bits)


def train(
    model: nn.Module,
    objective: Objective,
    hyper: Hyperparameters,
    *,
    seed: int,
    first_step: int = 0,
    masks: Masks | None = None,
    compute: Compute = CPU,
    saliency: Saliency | None = None,
    backbone_prefix: str = "",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    identity: str = "",
    at_step: dict[int, Callable[[nn.Module], None]] | None = None,
    lengths: Sequence[int] = (),
    journal: Journal | None = None,
) -> nn.Module:
    """Train `model` in place and give it back in eval mode.

    Args:
        model: float32, on the device where it is to be trained.
        objective: examples and loss.
        hyper: steps, batch, rates.
        seed: of the data order, the dropout and the objective's own draws.
        first_step: where to begin in the schedule (a rewinding point); the steps before it are taken as done.
        masks: weights to keep at zero throughout; None trains densely.
        compute: that device, and what forward passes are computed in; weights, masks and optimizer stay float32. With
            several devices each process calls this with the same arguments, and the first alone writes.
        saliency: sums over the steps to be kept up; they change nothing about the training.
        backbone_prefix: start of the names of every parameter that does not belong to the head.
        checkpoint: where to save the state about every `checkpoint_seconds`, and to resume from if there is one.
        identity: hash of what is trained, stored in the checkpoint.
        at_step: called with the model once these many steps are done (for a rewinding point); not on resuming past it.
        journal: called with every step's `vlcompress.training.watching.Entry`.
        lengths: of each example, where `hyper.tokens` counts them (`vlcompress.training.sampling.token_lengths`).

    Raises:
        VlcompressError: no examples, or the loss is not finite.
    """
    if len(objective) == 0:
        raise VlcompressError("there is no example to train on: check the data folder and the split")
    if compute.micro_batch > 0:
        check_divisible(model, objective)
    if compute.activation_checkpointing:
        checkpoint_blocks(model)
    rank, shared = rank_here(), None
    if compute.devices > 1:
        check_place(compute)
        check_shared(model, objective, hyper, compute.devices)
        shared = shared_loss(model, objective)
    optimizer = optimizer_of(model, hyper, backbone_prefix)
    scaler = scaler_of(compute)
    stepper = Stepper(model, objective, optimizer, hyper, compute, saliency, scaler, shared)
    under_way = Checkpoint(checkpoint, identity, model, optimizer, saliency, scaler) if checkpoint is not None else None
    start = (under_way.load() if under_way is not None else 0) or first_step
    for group in optimizer.param_groups if scaler is None else ():  # with one, steps are skipped: the checkpoint counts
        group["taken"] = start - first_step  # the moments are those of so many steps
    keeper = MaskKeeper(model, masks) if masks is not None else None
    sampler = sampler_of(len(objective), hyper, seed, lengths)
    losses = _Losses(hyper, LOOK_EVERY if compute.on_gpu else 1, journal, compute)
    saved = time.monotonic()
    model.train()
    with precision(compute):
        made = ahead(partial(drawn, objective, sampler, seed), start, hyper.steps, compute.readers)
        for step, groups in clocked(made, losses.waited):
            torch.manual_seed(mix(seed, f"dropout {rank}" if rank else "dropout", step))
            losses.add(step, stepper.learn(groups, step))
            losses.took(stepper.step(step))
            if keeper is not None:
                keeper.enforce(optimizer)
            snapshot, last = (at_step or {}).get(step + 1), step + 1 == hyper.steps
            due = under_way is not None and time.monotonic() - saved >= checkpoint_seconds and not last and rank == 0
            losses.report(now=bool(snapshot) or due or last)
            if snapshot is not None:
                snapshot(model)
            if under_way is not None and due:
                under_way.save(step + 1)
                saved = time.monotonic()
    return model.eval()


def _bits(mask: Tensor, weight: Tensor) -> Tensor:
    """Make all ones where `mask` keeps and all zeros where it prunes, as integers of the weight's width."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return -mask.to(weight.device, kind)


class _Losses:
    """The losses and gradient norms, checked and reported every so many steps: until then they stay on the device."""

    def __init__(self, hyper: Hyperparameters, every: int, journal: Journal | None, compute: Compute) -> None:
        self._hyper, self._every = hyper, every
        self._journal, self._compute, self._started = journal, compute, time.monotonic()
        self._unseen: list[tuple[int, Tensor]] = []
        self._unreported: list[tuple[int, float]] = []
        self._norms: list[Tensor] = []
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Take how long the next batch was waited for."""
        self._waited += seconds

    def add(self, step: int, loss: Tensor) -> None:
        """Take the loss of step `step` (from 0), and look if it is time."""
        self._unseen.append((step, loss.detach()))
        if len(self._unseen) >= self._every:
            self.look()

    def took(self, norm: Tensor) -> None:
        """Take the gradient norm of the step whose loss came last."""
        if self._journal is not None:
            self._norms.append(norm.detach())

    def look(self) -> None:
        """Wait for the losses and check them.

        Raises:
            VlcompressError: one is not finite; the first such step is named.
        """
        if not self._unseen:
            return
        steps, losses = zip(*self._unseen, strict=True)
        self._unseen.clear()
        started = time.monotonic()
        values = torch.stack(losses).tolist()
        # while a GPU still had steps to do, batches that were waited for kept nothing
        self._waited = max(0.0, self._waited - (time.monotonic() - started))
        for step, value in zip(steps, values, strict=True):
            if not math.isfinite(value):
                raise VlcompressError(
                    f"the loss is {value} at step {step}: lower the learning rate ({self._hyper.learning_rate:g}) or "
                    "check the data"
                )
            self._unreported.append((step + 1, value))

    def report(self, *, now: bool) -> None:
        """Report what has been looked at; look first if what follows must not build on a loss that is not finite."""
        if now:
            self.look()
        if self._journal is not None and self._unreported:
            self._write(self._journal)
        self._unreported.clear()

    def _write(self, journal: Journal) -> None:
        hyper, seconds, waited = self._hyper, time.monotonic() - self._started, round(self._waited, 3)
        norms = torch.stack(self._norms).tolist()
        self._norms.clear()
        for (done, loss), norm in zip(self._unreported, norms, strict=True):
            factor = rate(hyper.optimizer, done, hyper.steps, hyper.warmup)
            peak, peak_rate = peak_bytes(self._compute), hyper.learning_rate * factor
            journal(Entry(done, loss, peak_rate, norm, round(seconds, 3), peak, waited))


def evaluate(model: nn.Module, scored: EvalTask, *, batch: int = 256, compute: Compute = CPU) -> Scores:
    """Score every example of a split, without dropout, computed as in training."""
    model.eval()
    with torch.inference_mode(), autocast(compute):
        return scored.evaluate(model, batch=batch)

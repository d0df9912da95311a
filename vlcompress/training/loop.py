"""The training loop. Every bit of chance is a function of (seed, step), so that any step can be repeated or resumed."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks
from vlcompress.tasks.base import Objective, Scored, Scores
from vlcompress.training.checkpoint import load_checkpoint, save_checkpoint
from vlcompress.training.optimizers import OPTIMIZERS, rate
from vlcompress.training.saliency import Saliency

Progress = Callable[[int, float], None]
"""Called after a step with the steps done and that step's loss."""


@dataclass(frozen=True)
class Hyperparameters:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        batch: examples a step.
        learning_rate: the peak, reached at the end of the warm-up.
        warmup: share of the steps, in (0, 1).
        clip: the gradient of all parameters together is scaled down to this norm.
        weight_decay: decoupled, but in the gradient for "sgd"; "adamw" takes it on matrices alone, the others on every
            parameter.
        head_rate: factor on the learning rate of the task head (10 in UNITER's and ViLT's VQA recipes).
        optimizer: "bertadam" (LXMERT), "adamw" (UNITER, ViLT) or "sgd" (ResNet; its rate falls in steps, the others'
            on a straight line).
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.1
    clip: float = 5.0
    weight_decay: float = 0.01
    head_rate: float = 1.0
    optimizer: str = "bertadam"

    def document(self) -> dict[str, Any]:
        """Give them for a training's identity: the optimizer only where it is not the first one there was."""
        said = asdict(self)
        return said if self.optimizer != "bertadam" else {key: said[key] for key in said if key != "optimizer"}


@dataclass(frozen=True)
class Sampler:
    """Which examples a step takes: a fresh permutation each epoch, the last incomplete batch dropped."""

    examples: int
    batch: int
    seed: int

    def indices(self, step: int) -> list[int]:
        """Give the examples of step `step` (from 0)."""
        per_epoch = max(1, self.examples // self.batch)
        epoch, position = divmod(step, per_epoch)
        order = _permutation(self.examples, self.seed, epoch)
        return order[position * self.batch : (position + 1) * self.batch].tolist()


class MaskKeeper:
    """Keep pruned weights, and their optimizer state, at zero: bit-zero after every step.

    The numbers' bits are and-ed with all ones (keep) or all zeros (pruned): one fast pass, where a product with a mask
    would leave negative zeros and `masked_fill_` takes fourteen times as long on a CPU (bench/masked_step.py).
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        masks.apply(model)
        parameters = dict(model.named_parameters())
        self._kept_bits = {parameters[name]: _bits(mask, parameters[name]) for name, mask in masks.items()}

    @torch.no_grad()
    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero what is pruned in the weights and in both moments (a weight that the task never uses has none)."""
        for weight, bits in self._kept_bits.items():
            for tensor in (weight, *optimizer.state.get(weight, {}).values()):
                tensor.view(bits.dtype).bitwise_and_(bits)


def train(
    model: nn.Module,
    objective: Objective,
    hyper: Hyperparameters,
    *,
    seed: int,
    first_step: int = 0,
    masks: Masks | None = None,
    saliency: Saliency | None = None,
    backbone_prefix: str = "",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    identity: str = "",
    at_step: dict[int, Callable[[nn.Module], None]] | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Train `model` in place and give it back in eval mode.

    Args:
        model: on the device where it is to be trained.
        objective: examples and loss.
        hyper: steps, batch, rates.
        seed: of the data order, the dropout and the objective's own chance.
        first_step: where to begin in the schedule (a rewinding point); the steps before it are taken as done.
        masks: weights to keep at zero throughout; None trains densely.
        saliency: sums over the steps to be kept up; they change nothing about the training.
        backbone_prefix: start of the names of every parameter that does not belong to the head.
        checkpoint: where to save the state about every `checkpoint_seconds`, and to resume from if there is one.
        identity: hash of what is trained, stored in the checkpoint.
        at_step: called with the model once these many steps are done (for a rewinding point); not on resuming past it.
        progress: called after every step.

    Raises:
        VlcompressError: no examples, or the loss is not finite.
    """
    if len(objective) == 0:
        raise VlcompressError("there is no example to train on: check the data folder and the split")
    device = next(model.parameters()).device
    optimizer = _optimizer(model, hyper, backbone_prefix)
    state: dict[str, Any] = {"identity": identity, "model": model, "optimizer": optimizer, "saliency": saliency}
    start = (load_checkpoint(checkpoint, **state) if checkpoint is not None else 0) or first_step
    for group in optimizer.param_groups:
        group["taken"] = start - first_step  # the moments are those of so many steps
    keeper = MaskKeeper(model, masks) if masks is not None else None
    sampler = Sampler(len(objective), min(hyper.batch, len(objective)), seed)
    saved = time.monotonic()
    model.train()
    for step in range(start, hyper.steps):
        batch = objective.batch(sampler.indices(step), _generator(seed, "batch", step)).to(device)
        torch.manual_seed(_mix(seed, "dropout", step))
        loss = _step(model, objective.loss(model, batch), optimizer, hyper, step, saliency)
        if keeper is not None:
            keeper.hold(optimizer)
        if progress is not None:
            progress(step + 1, loss)
        if at_step and step + 1 in at_step:
            at_step[step + 1](model)
        if checkpoint is not None and time.monotonic() - saved >= checkpoint_seconds and step + 1 < hyper.steps:
            save_checkpoint(checkpoint, step=step + 1, **state)
            saved = time.monotonic()
    return model.eval()


def _bits(mask: Tensor, weight: Tensor) -> Tensor:
    """Give all ones where `mask` keeps and all zeros where it prunes, as integers of the weight's width."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return -mask.to(weight.device, kind)


def _optimizer(model: nn.Module, hyper: Hyperparameters, backbone_prefix: str) -> torch.optim.Optimizer:
    """Give the optimizer, with a group for each peak rate (backbone, head) and decay (matrices, all else)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        peak = hyper.learning_rate * (1.0 if name.startswith(backbone_prefix) else hyper.head_rate)
        decays = hyper.optimizer != "adamw" or parameter.dim() > 1
        groups.setdefault((peak, hyper.weight_decay if decays else 0.0), []).append(parameter)
    return OPTIMIZERS[hyper.optimizer](
        [{"params": params, "peak": peak, "weight_decay": decay} for (peak, decay), params in groups.items()], lr=0.0
    )


def _step(
    model: nn.Module,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    hyper: Hyperparameters,
    step: int,
    saliency: Saliency | None,
) -> float:
    value = float(loss.detach())
    if value != value or value in (float("inf"), -float("inf")):
        raise VlcompressError(
            f"the loss is {value} at step {step}: lower the learning rate ({hyper.learning_rate:g}) or check the data"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if saliency is not None:
        saliency.add(step)
    torch.nn.utils.clip_grad_norm_(model.parameters(), hyper.clip)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate(hyper.optimizer, step + 1, hyper.steps, hyper.warmup)
    optimizer.step()
    return value


def evaluate(model: nn.Module, scored: Scored, *, batch: int = 256) -> Scores:
    """Score every example of a split, without dropout."""
    model.eval()
    with torch.inference_mode():
        return scored.evaluate(model, batch=batch)


@lru_cache(maxsize=1)
def _permutation(examples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(examples, generator=_generator(seed, "epoch", epoch))


def _mix(seed: int, purpose: str, step: int) -> int:
    """Give a 63-bit seed for one purpose at one step."""
    digest = hashlib.blake2b(f"{seed}:{purpose}:{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _generator(seed: int, purpose: str, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mix(seed, purpose, step))

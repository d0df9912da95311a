"""Adversarial training in the embedding space, as VILLA does it (Gan et al., NeurIPS 2020; zhegan27/VILLA).

Each step takes `PASSES` passes over its batch. The first is unperturbed; after each but the last, the perturbation δ
moves by `rate` along the gradient of that pass's loss, normalised for each row of the batch. A pass's loss is the
task's plus `DIVERGENCE` x the symmetric Kullback-Leibler divergence from the unperturbed prediction, through which
gradients flow too; the step's loss is the mean over passes. "text" moves the word embeddings (before positions and
LayerNorm), "image" the raw region features; with both, each has passes of its own. There is no projection, as
in the reference code.

The official code calls backward after every pass; here the passes' losses are summed first, which gives the same
gradients and holds the activations of all passes.

Shapes: B rows of the inputs, T words, R regions, F feature width, H hidden width, K what is chosen from.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family, HeadKind
from vlcompress.models.objective import Batch
from vlcompress.models.registry import FAMILIES
from vlcompress.tasks.base import LogitTask, finite

PASSES = 3
"""VILLA's ``adv_steps``."""
DIVERGENCE = 1.5
"""VILLA's ``adv_kl_weight``."""
MODALITIES = ("text", "image")
_RATE = 1e-3
_LEAST_NORM = 1e-8
_HEADS = ("answers", "pair", "choice", "region", "classes")


@dataclass(frozen=True)
class Perturbation:
    """What is perturbed and how far; `str` gives what `parse_perturbation` reads.

    Attributes:
        modalities: "text", "image", or both; none trains plainly.
        rate: length (l2) of a step of each row's δ.
    """

    modalities: tuple[str, ...] = ()
    rate: float = _RATE

    def __str__(self) -> str:
        return "+".join(self.modalities) + (f":{self.rate:.12g}" if self.rate != _RATE else "")

    def __bool__(self) -> bool:
        return bool(self.modalities)


def parse_perturbation(text: str) -> Perturbation:
    """Read "text", "image" or "text+image", with ":RATE" for another step than 1e-3 ("text+image:0.01"); "" is none.

    Raises:
        VlcompressError: anything else.
    """
    if not text:
        return Perturbation()
    names, _, rate = text.partition(":")
    modalities = tuple(names.split("+"))
    try:
        found = Perturbation(modalities, float(rate) if rate else _RATE)
    except ValueError:
        found = Perturbation((), 0.0)
    if (
        not set(found.modalities) <= set(MODALITIES)
        or len(set(modalities)) < len(modalities)
        or not 0 < found.rate < float("inf")
    ):
        raise VlcompressError(
            f"adversarial '{text}': give text, image or text+image, with the length of a step where it is not "
            f"{_RATE:g}, for example text:0.01"
        )
    return found


class Adversarial:
    """A task whose every batch is also learned under perturbation.

    Args:
        task: gives examples and the loss.
        family: of the model.
        perturbation: see `Perturbation`.

    Raises:
        VlcompressError: a family or a task that this is not defined for.
    """

    def __init__(self, task: object, family: Family, perturbation: Perturbation) -> None:
        if not family.perturbed or not isinstance(task, LogitTask) or task.head.kind not in _HEADS:
            families = ", ".join(name for name, one in FAMILIES.items() if one.perturbed)
            raise VlcompressError(
                f"adversarial training of {family.name} on this task is not defined: it is there for {families}, on "
                "tasks that choose among answers (not pre-training, not retrieval)"
            )
        self._task, self._family, self._perturbation = task, family, perturbation
        self.compares = task.compares

    def __len__(self) -> int:
        return len(self._task)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the task's batch."""
        return self._task.batch(indices, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Average the losses of all passes: a scalar."""
        clean = self._family.logits(model, batch.inputs)
        losses = [self._passes(model, batch, clean, modality) for modality in self._perturbation.modalities]
        return torch.stack(losses).mean()

    def share(self, part: Batch) -> float:
        """See `vlcompress.models.objective.Divisible`: divergences are reduced as the task's loss is."""
        return self._task.share(part)

    def _passes(self, model: nn.Module, batch: Batch, clean: Tensor, modality: str) -> Tensor:
        delta = no_shift(model, self._family, batch.inputs, modality)
        losses = []
        for number in range(PASSES):
            delta.requires_grad_()
            logits = shifted_logits(model, self._family, batch.inputs, {modality: delta})
            divergence = symmetric_divergence(self._task.head.kind, logits, clean, batch.targets)
            losses.append(self._task.loss_of(logits, batch.targets) + DIVERGENCE * divergence)
            if number < PASSES - 1:
                (gradient,) = torch.autograd.grad(losses[-1], delta, retain_graph=True)
                delta = stepped(delta, gradient, self._perturbation.rate)
        return torch.stack(losses).mean()


@runtime_checkable
class Attackable(LogitTask, Protocol):
    """A task whose scored examples have a loss that an attack can raise."""

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `vlcompress.tasks.base.PerExampleTask`."""

    def called(self, index: int) -> str:
        """Name an example in a message."""


def attacked_score(
    model: nn.Module, family: Family, task: Attackable, perturbation: Perturbation, *, batch: int = 256
) -> float:
    """Score a task, in [0, 1], with every example perturbed against its right answer.

    The perturbation is that of the last pass of a training step: `PASSES` - 1 steps up the task's loss from 0, of all
    modalities at once, without dropout.
    """
    device, total = next(model.parameters()).device, 0.0
    model.eval()
    for start in range(0, len(task), batch):
        indices = range(start, min(start + batch, len(task)))
        examples = task.batch(indices, torch.Generator()).to(device)
        logits = finite(_attacked_logits(model, family, task, perturbation, examples), indices, task.called)
        total += float(task.judge(logits, examples.targets)[0].double().sum())
    return total / len(task)


def _attacked_logits(
    model: nn.Module, family: Family, task: Attackable, perturbation: Perturbation, batch: Batch
) -> Tensor:
    deltas = {name: no_shift(model, family, batch.inputs, name) for name in perturbation.modalities}
    for _ in range(PASSES - 1):
        leaves = [delta.requires_grad_() for delta in deltas.values()]
        loss = task.loss_of(shifted_logits(model, family, batch.inputs, deltas), batch.targets)
        gradients = torch.autograd.grad(loss, leaves)
        moves = zip(deltas.items(), gradients, strict=True)
        deltas = {name: stepped(delta, gradient, perturbation.rate) for (name, delta), gradient in moves}
    with torch.no_grad():
        return shifted_logits(model, family, batch.inputs, deltas)


def no_shift(model: nn.Module, family: Family, inputs: Mapping[str, Tensor], modality: str) -> Tensor:
    """Make a δ of zeros: [B, T, H] for "text", [B, R, F] for "image"."""
    if modality == "image":
        return torch.zeros_like(inputs[family.perturbed[modality]])
    table_VH = _word_embeddings(model, family).weight
    return table_VH.new_zeros(*inputs["input_ids"].shape, table_VH.shape[1])


def stepped(delta: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """Move each row of δ by `rate` along its gradient; the result is a new leaf."""
    norm_B: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1).clamp(min=_LEAST_NORM)
    return (delta + rate * gradient / norm_B[:, None, None]).detach()


def shifted_logits(
    model: nn.Module, family: Family, inputs: Mapping[str, Tensor], deltas: Mapping[str, Tensor]
) -> Tensor:
    """Run the model with δ added to the word embeddings ("text") and to the region features ("image"): its logits."""
    shifted = dict(inputs)
    if "image" in deltas:
        image = family.perturbed["image"]
        shifted[image] = inputs[image] + deltas["image"]
    with _words_shifted(_word_embeddings(model, family), deltas.get("text")):
        return family.logits(model, shifted)


@contextmanager
def _words_shifted(words: nn.Module, delta: Tensor | None) -> Iterator[None]:
    if delta is None:
        yield
        return
    handle = words.register_forward_hook(lambda module, inputs, embedded: embedded + delta)
    try:
        yield
    finally:
        handle.remove()


def symmetric_divergence(kind: HeadKind, logits: Tensor, clean: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Compute KL(p || q) + KL(q || p) of the softmax over what is chosen from: a scalar, reduced as VILLA does.

    Summed over K and averaged over rows; averaged over K too for VCR's choices. RefCOCO, which the official code has
    no such training for, sums over rows as its task loss does.
    """
    rows = len(next(iter(targets.values())))
    p_BK, q_BK = (one.reshape(rows, -1).log_softmax(dim=1) for one in (logits, clean))
    both_BK = kl_div(p_BK, q_BK, reduction="none", log_target=True) + kl_div(
        q_BK, p_BK, reduction="none", log_target=True
    )
    result: Tensor = both_BK.sum() / {"choice": both_BK.numel(), "region": 1}.get(kind, rows)
    return result


def _word_embeddings(model: nn.Module, family: Family) -> nn.Embedding:
    words = model.get_submodule(family.perturbed["text"])
    assert isinstance(words, nn.Embedding)
    return words

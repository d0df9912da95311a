"""MoCo's second encoder and its queue, kept in the model itself: what a training is resumed from has them too.

The names are those of MoCo's files: ``encoder_k.*`` and ``queue``, beside what MoCo calls ``encoder_q``. Nothing of
them is ever pruned or trained: the key encoder follows the model as a moving average, and so its zeros as well.

Shapes: B rows, Q length of the queue, D width of the projection.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

MOMENTUM = 0.99
"""Of the moving average. MoCo's 0.999 looks back over a thousand steps, more than a small training has."""
QUEUE = 1024
"""Keys that are remembered (MoCo: 65,536)."""
MOMENTUM_VARIANT = "momentum"
"""The variant of a head whose model has a key side."""
KEYS = ("encoder_k.", "queue")
"""Starts of the names of all that belongs to the key side."""


def add_key_side(model: nn.Module, width: int) -> None:
    """Give a model a key encoder of its own shape and an empty queue of keys of this width."""
    encoder = deepcopy(model)
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    model.encoder_k = encoder
    model.register_buffer("queue", torch.zeros(QUEUE, width))
    model.register_buffer("queue_taken", torch.zeros((), dtype=torch.int64))


@torch.no_grad()
def follow(model: nn.Module) -> nn.Module:
    """Move the key encoder towards the model and give it; before the first step it becomes a copy of the model."""
    parts: Any = model
    # The host asks the device for the counter once, at the first step here, and then knows.
    parts.moves = getattr(parts, "moves", False) or bool(parts.queue_taken)
    weight = MOMENTUM if parts.moves else 0.0
    if not parts.moves:
        parts.queue.copy_(_chance(parts.queue))
    own = dict(model.named_parameters())
    for name, key in parts.encoder_k.named_parameters():
        key.mul_(weight).add_(own[name], alpha=1 - weight)
    encoder: nn.Module = parts.encoder_k
    return encoder


@torch.no_grad()
def remember(model: nn.Module, keys_BD: Tensor) -> None:
    """Put keys into the queue, over the oldest ones."""
    parts: Any = model
    places_B = (parts.queue_taken + torch.arange(len(keys_BD), device=keys_BD.device)) % QUEUE
    parts.queue[places_B] = keys_BD
    parts.queue_taken += len(keys_BD)
    parts.moves = True


def _chance(queue_QD: Tensor) -> Tensor:
    """Draw rows of length 1 in any direction: the keys of no picture, until there are real ones."""
    rows = torch.randn(queue_QD.shape, generator=torch.Generator().manual_seed(0))
    return normalize(rows, dim=1).to(queue_QD.device)

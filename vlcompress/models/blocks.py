"""Blocks of a transformer whose insides are not kept for the backward pass, but computed again there.

Activation checkpointing: the same bits, dropout included, for one more forward pass and the memory of one block.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vlcompress.models.attention import MultiHeadAttention

Result = TypeVar("Result")


def run_block(block: nn.Module, run: Callable[..., Result], *args: Any) -> Result:
    """Compute `run(*args)`, a block's forward pass; where `checkpoint_blocks` asked for it, again in the backward."""
    if getattr(block, "recomputed", False) and block.training and torch.is_grad_enabled():
        result: Result = checkpoint(run, *args, use_reentrant=False)
        return result
    return run(*args)


def checkpoint_blocks(model: nn.Module) -> int:
    """Have every block of a model computed again in backward passes, and count them.

    Blocks are the entries of module lists that hold an attention of ours; models without any take transformers' own
    switch, if they have it. 0 says that nothing changes.
    """
    modules = dict(model.named_modules())
    attentions = [name for name, one in modules.items() if isinstance(one, MultiHeadAttention)]
    blocks = {modules[name]: None for name in filter(None, (_entry(name, modules) for name in attentions))}
    for block in blocks:
        block.recomputed = True
    if blocks:
        return len(blocks)
    able = [one for one in modules.values() if getattr(one, "supports_gradient_checkpointing", False)]
    for one in able[:1]:
        switch: Any = one
        switch.gradient_checkpointing_enable({"use_reentrant": False})
    return len(able)


def _entry(name: str, modules: dict[str, nn.Module]) -> str:
    """Name the entry of a module list that a module lies in; "" where it lies in none."""
    while name:
        parent = name.rpartition(".")[0]
        if isinstance(modules[parent], nn.ModuleList):
            return name
        name = parent
    return ""

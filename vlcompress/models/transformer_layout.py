"""What families of BERT-like blocks say of themselves in the same way: prunable weights, parts, and coupled heads."""

from collections.abc import Callable
from typing import Protocol

from torch import nn

from vlcompress.models.base import Coupling, Prunable


class Attention(Protocol):
    """An attention module with query, key and value projections, as it is now."""

    @property
    def num_attention_heads(self) -> int:
        """How many heads there are."""

    @property
    def attention_head_size(self) -> int:
        """Width of one head."""


def prunable_where(
    model: nn.Module, pruned: Callable[[str], bool], reason: Callable[[str], str], backbone_prefix: str
) -> Prunable:
    """Sort a model's parameters into those that are pruned and those that are not.

    Args:
        model: gives names and sizes.
        pruned: says of a name whether the policy prunes it.
        reason: says why it does not.
        backbone_prefix: start of the names of the backbone's parameters.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    names = tuple(name for name in sizes if pruned(name))
    excluded = {name: reason(name) for name in sizes if not pruned(name)}
    backbone = sum(size for name, size in sizes.items() if name.startswith(backbone_prefix))
    return Prunable(names, excluded, sum(sizes[name] for name in names), backbone)


def head_coupling(name: str, attention: Attention) -> Coupling:
    """Couple the heads of the attention module `name`, whose layer has its output projection at ``output.dense``."""
    layer = name.rpartition(".")[0]
    return Coupling(
        kind="head",
        producers=tuple(f"{name}.{part}.weight" for part in ("query", "key", "value")),
        consumer=f"{layer}.output.dense.weight",
        units=attention.num_attention_heads,
        unit_size=attention.attention_head_size,
        constant_from=f"{name}.value.weight",
        owner=name,
    )


def part_of(name: str) -> str:
    """Return the part of the model that a weight belongs to, by its modality.

    Args:
        name: canonical weight name.

    Returns:
        "language", "vision", "cross" or "pooler" of LXMERT; in families of one stream "joint" or "pooler".
    """
    if ".x_layers." in name:
        return "cross"
    if ".r_layers." in name:
        return "vision"
    return "pooler" if "pooler" in name else "language" if "lxmert" in name else "joint"

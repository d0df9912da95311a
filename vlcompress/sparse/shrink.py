"""Physical removal of attention heads and feed-forward neurons that contribute nothing, and of layers left without any.

A unit contributes nothing if its consumer multiplies it by zeros. It contributes a constant if what produces it is all
zero: a neuron's output is then act(bias), and a head's context is the value bias, since attention weights sum to 1
(in both directions of a shared cross-attention, too). The constant moves into the consumer's bias, so the function of
the model stays what it was.

Letters: a producer is [U*S, K] (U units of S rows), a consumer [N, U*S].
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling, Family
from vlcompress.sparse.removed import take_out

Masks = Mapping[str, Tensor]

_COUNTS = ("num_attention_heads", "num_heads", "n_heads")
"""What transformers calls a module's number of heads."""


@dataclass(frozen=True)
class Kept:
    """Which units of one coupling stay.

    Attributes:
        consumer: the coupling's consumer, which names it.
        kind: "head" or "neuron".
        units: how many there were.
        kept: rising indices of those that stay; () where the whole layer goes (`vlcompress.sparse.removed`).
    """

    consumer: str
    kind: str
    units: int
    kept: tuple[int, ...]


def shrink(family: Family, model: nn.Module, masks: Masks) -> tuple[nn.Module, dict[str, Tensor], tuple[Kept, ...]]:
    """Remove every head and neuron that contributes nothing or a constant, and every layer without others.

    Args:
        family: tells the couplings.
        model: the masked model; it is not changed.
        masks: bool [N, K] by weight name.

    Returns:
        The smaller model, its masks, and what was kept of each coupling.
    """
    smaller, masks_left, kept = copy.deepcopy(model), dict(masks), []
    with torch.no_grad():
        for coupling in family.couplings(model):
            dead, constant = _contributions(smaller, coupling)
            stay = ~dead
            _fold(smaller, coupling, constant * ~stay.repeat_interleave(coupling.unit_size))
            units = Kept(coupling.consumer, coupling.kind, coupling.units, tuple(stay.nonzero()[:, 0].tolist()))
            masks_left |= _cut(smaller, masks_left, coupling, units)
            gone = () if units.kept else (*coupling.producers, coupling.consumer)
            masks_left = {name: mask for name, mask in masks_left.items() if name not in gone}
            kept.append(units)
    return smaller, masks_left, tuple(kept)


def reshape(family: Family, model: nn.Module, kept: Sequence[Kept]) -> None:
    """Give a full-size model the shapes of a shrunk one, in place; its weights are then to be loaded.

    Raises:
        VlcompressError: the kept units are those of another architecture.
    """
    couplings = {coupling.consumer: coupling for coupling in family.couplings(model)}
    for units in kept:
        coupling = couplings.get(units.consumer)
        if coupling is None or coupling.units != units.units:
            raise VlcompressError(
                f"the kept units of '{units.consumer}' do not fit this model: they were made for another architecture; "
                "compile the ticket again"
            )
        with torch.no_grad():
            _cut(model, {}, coupling, units)


def linear(model: nn.Module, weight: str) -> nn.Linear:
    """Find the nn.Linear that owns a weight ("....dense.weight")."""
    return cast(nn.Linear, model.get_submodule(module_of(weight)))


def module_of(weight: str) -> str:
    """Name the module that owns a weight."""
    return weight.rpartition(".")[0]


def _contributions(model: nn.Module, coupling: Coupling) -> tuple[Tensor, Tensor]:
    """Find which units can go (bool [U]) and what the consumer reads of the constant ones ([U*S], 0 elsewhere)."""
    consumer = linear(model, coupling.consumer)
    unread = _per_unit(consumer.weight.T, coupling)
    if not coupling.constant_from:
        return unread, consumer.weight.new_zeros(consumer.in_features)
    source = linear(model, coupling.constant_from)
    silent = _per_unit(source.weight, coupling)
    if getattr(consumer, "bias", None) is None:  # nowhere to put a constant
        silent = silent & unread
    output = _activated(model, coupling) if coupling.kind == "neuron" else _bias(source)
    return unread | silent, output * silent.repeat_interleave(coupling.unit_size)


def _bias(module: nn.Linear) -> Tensor:
    bias: Tensor | None = module.bias
    return module.weight.new_zeros(len(module.weight)) if bias is None else bias


def _per_unit(rows: Tensor, coupling: Coupling) -> Tensor:
    """Mark the units whose rows of [U*S, K] are all zero: bool [U]."""
    return (rows == 0).all(dim=1).view(coupling.units, coupling.unit_size).all(dim=1)


def _activated(model: nn.Module, coupling: Coupling) -> Tensor:
    """Compute act(bias) [U]: what the up-projection and its activation make of an input of zeros."""
    source = linear(model, coupling.constant_from)
    if coupling.activation:
        constant: Tensor = model.get_submodule(coupling.activation)(_bias(source))
        return constant
    up = model.get_submodule(coupling.constant_from.rpartition(".")[0].rpartition(".")[0])
    result: Tensor = up(source.weight.new_zeros(1, source.in_features))
    return result[0]


def _fold(model: nn.Module, coupling: Coupling, constant: Tensor) -> None:
    """Add what the consumer makes of constant inputs [U*S] to its bias."""
    consumer = linear(model, coupling.consumer)
    if bool(constant.any()):
        extra = (consumer.weight.double() @ constant.double()).to(consumer.weight.dtype)
        consumer.bias = nn.Parameter(consumer.bias + extra, requires_grad=False)


def _cut(model: nn.Module, masks: Masks, coupling: Coupling, units: Kept) -> dict[str, Tensor]:
    """Drop units from the weights (in place) and give the masks without them."""
    if len(units.kept) == units.units:
        return {}
    if not units.kept:
        producers, consumer = [module_of(name) for name in coupling.producers], module_of(coupling.consumer)
        take_out(model, producers, consumer, coupling.owner)
        return {}
    offsets = torch.arange(coupling.unit_size)
    index = (torch.tensor(units.kept)[:, None] * coupling.unit_size + offsets).flatten()
    masks_out: dict[str, Tensor] = {}
    for name in coupling.producers:
        _keep_rows(linear(model, name), index)
        masks_out |= {name: masks[name][index]} if name in masks else {}
    _keep_columns(linear(model, coupling.consumer), index)
    if coupling.consumer in masks:
        masks_out[coupling.consumer] = masks[coupling.consumer][:, index]
    if coupling.owner:
        set_count(model.get_submodule(coupling.owner), coupling.units, len(units.kept), coupling.unit_size)
    return masks_out


def _keep_rows(module: nn.Linear, index: Tensor) -> None:
    module.weight = nn.Parameter(module.weight[index].clone(), requires_grad=False)
    module.out_features = len(index)
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias[index].clone(), requires_grad=False)


def _keep_columns(module: nn.Linear, index: Tensor) -> None:
    module.weight = nn.Parameter(module.weight[:, index].clone(), requires_grad=False)
    module.in_features = len(index)


def set_count(owner: Any, before: int, left: int, width: int) -> None:
    """Tell an attention module, in place, that it has `left` heads of `width` rows where there were `before`."""
    for count in _COUNTS:
        if hasattr(owner, count):
            setattr(owner, count, left)
    for total in ("all_head_size", "head_size"):  # transformers' names for heads x width, by family
        if getattr(owner, total, None) == before * width:
            setattr(owner, total, left * width)

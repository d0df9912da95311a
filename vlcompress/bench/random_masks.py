"""Random masks of real patterns: how fast a pattern runs depends on where zeros may be, not on which there are."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Family
from vlcompress.pruning.mixture import Units, coupled
from vlcompress.pruning.pattern import Block, Unstructured, parse_pattern

UNITS = {"head": ("head",), "neuron": ("neuron",), "neuron+head": ("neuron", "head")}
"""Patterns of whole units, and the kinds of couplings that each removes."""

POLICY = "bert-tickets"


def read_pattern(text: str) -> str:
    """Check a pattern's name and give it in full: "64x64" is "block:64x64".

    Raises:
        VlcompressError: neither blocks nor units.
    """
    if text in UNITS:
        return text
    name = text if text == "unstructured" or text.startswith("block:") else f"block:{text}"
    try:
        return str(blocks(name))
    except VlcompressError:
        raise unknown("pattern", text, [*UNITS, "unstructured", "RxC (rows x columns of a block, as 64x64)"]) from None


def blocks(pattern: str) -> Block | Unstructured:
    """Give a pattern that is of blocks, or of single weights.

    Raises:
        VlcompressError: it is another one.
    """
    found = parse_pattern(pattern)
    if not isinstance(found, Block | Unstructured):
        raise unknown("pattern of blocks", pattern, ["unstructured", "block:RxC"])
    return found


def random_masks(
    family: Family, model: nn.Module, pattern: str, sparsity: float, *, seed: int = 0
) -> dict[str, Tensor]:
    """Prune the same share of each weight, or of the units of each layer, at random.

    Args:
        family: tells what may be pruned.
        model: gives the shapes.
        pattern: as `read_pattern` gives it.
        sparsity: share that goes, in [0, 1); one unit of each layer stays at least.
        seed: of the choice.

    Returns:
        Masks bool [out, in] by canonical weight name, True for what is kept.

    Raises:
        VlcompressError: a block that does not divide a weight, a sparsity out of range.
    """
    if not 0 <= sparsity < 1:
        raise VlcompressError(f"sparsity {sparsity:g} is out of range: give a share from 0 up to, not including, 1")
    generator = torch.Generator().manual_seed(seed)
    if pattern in UNITS:
        return _unit_masks(family, model, UNITS[pattern], sparsity, generator)
    return _block_masks(family, model, blocks(pattern), sparsity, generator)


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Put zeros where the masks say, inside the block; the weights come back after it."""
    before = {name: model.get_parameter(name).data for name in masks}
    try:
        for name, mask in masks.items():
            model.get_parameter(name).data = before[name].where(mask, 0.0)  # a product would make zeros with a sign
        yield
    finally:
        for name, weight in before.items():
            model.get_parameter(name).data = weight


def side(pattern: str) -> tuple[int, int]:
    """Give rows and columns of a block pattern, (1, 1) for "unstructured"."""
    found = blocks(pattern)
    return (found.rows, found.cols) if isinstance(found, Block) else (1, 1)


def _block_masks(
    family: Family, model: nn.Module, pattern: Block | Unstructured, sparsity: float, generator: torch.Generator
) -> dict[str, Tensor]:
    masks = {}
    for name in family.prunable(model, POLICY).names:
        weight = model.get_parameter(name)
        pattern.check(name, weight.shape)
        kept = _kept(weight.numel() // pattern.unit, sparsity, generator)
        masks[name] = pattern.spread(kept, weight.shape).contiguous()
    return masks


def _unit_masks(
    family: Family, model: nn.Module, kinds: tuple[str, ...], sparsity: float, generator: torch.Generator
) -> dict[str, Tensor]:
    names = family.prunable(model, POLICY).names
    masks = {name: torch.ones(model.get_parameter(name).shape, dtype=torch.bool) for name in names}
    for coupling in family.couplings(model):
        for units in coupled(Units(coupling.kind), [coupling], masks) if coupling.kind in kinds else ():
            for name, mask in units.spread(_kept(coupling.units, sparsity, generator), masks):
                masks[name] &= mask
    return masks


def _kept(units: int, sparsity: float, generator: torch.Generator) -> Tensor:
    """Keep all but round(units * sparsity) of the units, one at least: bool [units]."""
    kept = torch.zeros(units, dtype=torch.bool)
    kept[torch.randperm(units, generator=generator)[: max(1, units - round(units * sparsity))]] = True
    return kept

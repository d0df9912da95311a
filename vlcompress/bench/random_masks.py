"""Random masks of real patterns: how fast a pattern runs depends on where zeros may be, not on which there are."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Family
from vlcompress.pruning.mixture import coupled, units_named
from vlcompress.pruning.pattern import SAME
from vlcompress.pruning.patterns import of_weights

UNITS = ("head", "neuron", "neuron+head", "layer")
"""Patterns of whole units."""

POLICY = "bert-tickets"


def read_pattern(text: str) -> str:
    """Check a pattern's name and give it in full: "64x64" is "block:64x64".

    Raises:
        VlcompressError: neither a pattern of weights nor units.
    """
    if text in UNITS:
        return text
    name = text if text == "unstructured" or ":" in text else f"block:{text}"
    try:
        return str(of_weights(name))
    except VlcompressError:
        allowed = [*UNITS, "unstructured", "RxC (rows x columns of a block, as 64x64)", "n:m (n of every m, as 2:4)"]
        raise unknown("pattern", text, allowed) from None


def check_sparsity(pattern: str, sparsity: float) -> None:
    """Refuse a share that cannot go.

    Args:
        pattern: as `read_pattern` gives it.
        sparsity: share that is to go.

    Raises:
        VlcompressError: none in [0, 1), or another one than the pattern has.
    """
    if not 0 <= sparsity < 1:
        raise VlcompressError(f"sparsity {sparsity:g} is out of range: give a share from 0 up to, not including, 1")
    reach = 1.0 if pattern in UNITS else of_weights(pattern).reach
    if reach < 1 and abs(sparsity - reach) > SAME:
        raise VlcompressError(
            f"sparsity {sparsity:g} with pattern '{pattern}': it is {100 * reach:g} % sparse and nothing else; give "
            f"--sparsity {reach:.6g} with it"
        )


def random_masks(family: Family, model: nn.Module, pattern: str, sparsity: float) -> dict[str, Tensor]:
    """Prune the same share of each weight, of the units of each layer, or of the layers, at random.

    Args:
        family: tells what may be pruned.
        model: gives the shapes.
        pattern: as `read_pattern` gives it.
        sparsity: share that goes, in [0, 1); one unit of each layer stays at least, or one layer of each kind.

    Returns:
        Masks bool [out, in] by canonical weight name, True for what is kept.

    Raises:
        VlcompressError: a pattern that does not divide a weight, a sparsity that it cannot have.
    """
    check_sparsity(pattern, sparsity)
    generator = torch.Generator().manual_seed(0)
    if pattern in UNITS:
        return _unit_masks(family, model, pattern, sparsity, generator)
    weights = {name: model.get_parameter(name) for name in family.prunable(model, POLICY).names}
    return {name: weight_mask(pattern, name, weight.shape, sparsity, generator) for name, weight in weights.items()}


def weight_mask(pattern: str, name: str, shape: torch.Size, sparsity: float, generator: torch.Generator) -> Tensor:
    """Prune a share of one weight's units at random.

    Args:
        pattern: of weights, as `read_pattern` gives it.
        name: what to call the weight where the pattern does not divide it.
        shape: of the weight, [out, in].
        sparsity: share that goes; see `check_sparsity`.
        generator: of the choice.

    Returns:
        bool [out, in], True for what is kept.
    """
    units = of_weights(pattern)
    units.check_weight(name, shape)
    if units.spares is None:
        return units.spread(_kept(shape.numel() // units.unit, sparsity, generator), shape).contiguous()
    kept, of = units.spares
    return units.spread(torch.rand(shape.numel() // of, of, generator=generator).argsort(dim=1) < kept, shape)


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
    """Read rows and columns of a block pattern, (1, 1) for other patterns of weights."""
    return of_weights(pattern).block


def _unit_masks(
    family: Family, model: nn.Module, pattern: str, sparsity: float, generator: torch.Generator
) -> dict[str, Tensor]:
    names = family.prunable(model, POLICY).names
    masks = {name: torch.ones(model.get_parameter(name).shape, dtype=torch.bool) for name in names}
    for _, part in units_named(pattern.split("+")):
        found = coupled(part, family.couplings(model), masks)
        whole = iter(()) if part.single else iter(_kept(len(found), sparsity, generator))
        for units in found:
            kept = _kept(units.coupling.units, sparsity, generator) if part.single else next(whole)
            for name, mask in units.spread(kept, masks):
                masks[name] &= mask
    return masks


def _kept(units: int, sparsity: float, generator: torch.Generator) -> Tensor:
    """Keep all but round(units * sparsity) of the units, one at least: bool [units]."""
    kept = torch.zeros(units, dtype=torch.bool)
    kept[torch.randperm(units, generator=generator)[: max(1, units - round(units * sparsity))]] = True
    return kept

"""Weights shuffled within themselves, and masks changed on purpose: the complement, one with a tenth flipped."""

import torch

from vlcompress.pruning.mask import Masks
from vlcompress.tickets.controls import complement, perturbed, shuffled

MASKS = Masks({"a": torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) < 0.3, "b": torch.arange(10) < 5})


def test_the_complement_keeps_what_is_pruned() -> None:
    other = complement(MASKS)
    assert all(torch.equal(other[name], ~MASKS[name]) for name in MASKS)
    assert abs(other.sparsity + MASKS.sparsity - 1) < 1e-12


def test_a_tenth_of_the_ones_and_of_the_zeros_are_flipped() -> None:
    changed = perturbed(MASKS, 0.1, seed=0)
    for name in MASKS:
        ones, zeros = int(MASKS[name].sum()), int((~MASKS[name]).sum())
        assert int((MASKS[name] & ~changed[name]).sum()) == round(0.1 * ones)
        assert int((~MASKS[name] & changed[name]).sum()) == round(0.1 * zeros)
    assert perturbed(MASKS, 0.1, seed=0).sha256() == changed.sha256() != perturbed(MASKS, 0.1, seed=1).sha256()
    assert perturbed(MASKS, 0.0, seed=0).sha256() == MASKS.sha256()


def test_each_weight_is_shuffled_in_an_order_of_its_own() -> None:
    weights = {name: torch.arange(100.0) for name in "abc"}
    found = shuffled(weights, "ab", seed=0)
    assert sorted(found["a"].tolist()) == weights["a"].tolist() != found["a"].tolist()
    assert not torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], weights["c"])
    assert torch.equal(shuffled(weights, "ab", seed=0)["a"], found["a"])
    assert not torch.equal(shuffled(weights, "ab", seed=1)["a"], found["a"])

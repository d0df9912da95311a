"""Overlap of masks by hand and by chance; kernels that are gone."""

import pytest
import torch

from vlcompress.pruning.mask import Masks
from vlcompress.studies.similarity import chance, overlap, zero_kernels


def masks(*bits: str) -> list[Masks]:
    return [Masks({"w": torch.tensor([bit == "1" for bit in one])}) for one in bits]


def test_overlap_counts_what_all_and_what_any_keep() -> None:
    assert overlap(masks("1100", "1010")) == pytest.approx(1 / 3)
    assert overlap(masks("1110", "1011", "1111")) == pytest.approx(2 / 4)
    assert overlap(masks("0000", "0000")) == 1.0


def test_independent_masks_overlap_by_chance() -> None:
    rng = torch.Generator().manual_seed(0)
    some = [Masks({"w": torch.rand(400, 400, generator=rng) < 0.328}) for _ in range(3)]
    assert overlap(some[:2]) == pytest.approx(chance(some[:2]), abs=4e-3)
    assert overlap(some) == pytest.approx(chance(some), abs=4e-3)
    assert chance(some[:2]) == pytest.approx(0.196, abs=4e-3)  # for the paper's masks at 67.23 %
    assert chance(some) == pytest.approx(0.0505, abs=4e-3)


def test_chance_by_layer_knows_that_layers_differ() -> None:
    rng = torch.Generator().manual_seed(0)
    some = [
        Masks({"dense": torch.rand(40000, generator=rng) < 0.9, "thin": torch.rand(40000, generator=rng) < 0.1})
        for _ in range(2)
    ]
    assert overlap(some) == pytest.approx(chance(some, by_layer=True), abs=1e-2)
    assert chance(some, by_layer=True) > chance(some) + 0.2


def test_kernels_without_a_weight_are_counted_and_1x1_are_none() -> None:
    mask = torch.ones(2, 3, 3, 3, dtype=torch.bool)
    mask[0, 1] = False
    mask[1, 2] = False
    mask[1, 0, 0, 0] = False
    point = torch.zeros(4, 2, 1, 1, dtype=torch.bool)
    assert zero_kernels(Masks({"a": mask, "shortcut": point})) == (2, 6)

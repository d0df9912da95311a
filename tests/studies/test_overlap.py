"""Overlap by Jaccard, against a count by hand and against independent masks."""

import pytest
import torch

from vlcompress.pruning.mask import Masks
from vlcompress.studies.overlap import chance, jaccard


def test_it_counts_kept_weights() -> None:
    one = Masks({"w": torch.tensor([[True, True, False, False]])})
    other = Masks({"w": torch.tensor([[True, False, True, False]])})
    assert jaccard(one, other, ["w"]) == pytest.approx(1 / 3)
    assert jaccard(one, one, ["w"]) == 1


def test_independent_masks_overlap_by_chance_and_no_more() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = (Masks({"w": torch.rand(400, 400, generator=rng) < density}) for density in (0.3, 0.5))
    assert jaccard(one, other, ["w"]) == pytest.approx(chance(one, other, ["w"]), abs=3e-3)
    assert chance(one, one, ["w"]) == pytest.approx(0.3 / 1.7, abs=3e-3)

"""Row groups rebuild the weight, and are merged where that pays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlcompress.kernels.formats import Block, pack_masked, unpack
from vlcompress.kernels.grouped import row_groups

Blocky = Callable[..., Tensor]


@pytest.mark.parametrize("gather_cost", [0.0, 48.0, 1e9])
@pytest.mark.parametrize("block", [(16, 16), (64, 4), (64, 1), (8, 2)], ids=lambda b: f"{b[0]}x{b[1]}")
def test_row_groups_rebuild_the_weight(blocky: Blocky, block: Block, gather_cost: float) -> None:
    bsr = pack_masked(torch.randn(128, 64), blocky(128, 64, block, 0.3), block)
    groups = row_groups(bsr, gather_cost=gather_cost)
    rebuilt = torch.zeros(128, 64)
    for group in groups.groups:
        rows = slice(group.start, group.start + len(group.weight))
        rebuilt[rows, group.columns] = group.weight
        assert group.columns.dtype == torch.int64
        assert bool((group.columns.diff() > 0).all())
    assert torch.equal(rebuilt, unpack(bsr))
    assert [g.start for g in groups.groups] == torch.tensor([0, *(len(g.weight) for g in groups.groups)]).cumsum(0)[
        :-1
    ].tolist()


def test_equal_neighbours_become_one_group_and_different_ones_stay_apart() -> None:
    mask = torch.zeros(192, 64, dtype=torch.bool)
    mask[:64, :16] = mask[64:128, :16] = mask[128:, 32:] = True
    groups = row_groups(pack_masked(torch.randn(192, 64), mask, (64, 16)), gather_cost=0.0).groups
    assert [len(group.weight) for group in groups] == [128, 64]
    assert groups[1].columns.tolist() == list(range(32, 64))


def test_a_large_gather_cost_gives_one_group_that_reads_every_used_column(blocky: Blocky) -> None:
    bsr = pack_masked(torch.randn(128, 64), blocky(128, 64, (16, 8), 0.2), (16, 8))
    groups = row_groups(bsr, gather_cost=1e9).groups
    assert len(groups) == 1
    assert len(groups[0].columns) == 8 * int(bsr.pattern.stored.any(dim=0).sum())


def test_an_empty_weight_still_gives_rows() -> None:
    groups = row_groups(pack_masked(torch.randn(32, 16), torch.zeros(32, 16, dtype=torch.bool), (16, 16)))
    assert sum(len(group.weight) for group in groups.groups) == 32
    assert all(not group.weight.any() for group in groups.groups)

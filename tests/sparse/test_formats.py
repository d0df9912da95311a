"""BSR keeps every bit, and row groups multiply to the same result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlcompress.errors import VlcompressError
from vlcompress.sparse.formats import (
    Block,
    aligned_width,
    block_mask,
    pack,
    row_groups,
    stored,
    tightest_block,
    to_dense,
)

Blocky = Callable[..., Tensor]


@pytest.mark.parametrize("block", [(1, 1), (16, 16), (64, 4), (128, 1), (4, 32)], ids=lambda b: f"{b[0]}x{b[1]}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pack_and_to_dense_keep_every_bit(blocky: Blocky, block: Block, dtype: torch.dtype) -> None:
    weight = torch.randn(128, 64, dtype=dtype)
    mask = blocky(128, 64, block, 0.4)
    bsr = pack(weight, mask, block)
    assert bsr.values.shape[1:] == block
    assert (bsr.crow.dtype, bsr.col.dtype) == (torch.int32, torch.int32)
    expected = torch.where(mask, weight, torch.zeros((), dtype=dtype))
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[dtype]
    assert torch.equal(to_dense(bsr).view(bits), expected.view(bits))
    assert torch.equal(stored(bsr), block_mask(mask, block))


def test_pruned_weights_inside_a_kept_block_are_stored_as_zero() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    bsr = pack(torch.ones(4, 4), mask, (2, 2))
    assert bsr.values.flatten().tolist() == [1, 0, 0, 0]
    assert bsr.density == 0.25


def test_a_block_that_does_not_divide_names_the_sizes() -> None:
    with pytest.raises(VlcompressError, match="block 3x2 does not fit a weight of 4x4"):
        pack(torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool), (3, 2))


@pytest.mark.parametrize("gather_cost", [0.0, 48.0, 1e9])
@pytest.mark.parametrize("block", [(16, 16), (64, 4), (64, 1), (8, 2)], ids=lambda b: f"{b[0]}x{b[1]}")
def test_row_groups_rebuild_the_weight(blocky: Blocky, block: Block, gather_cost: float) -> None:
    bsr = pack(torch.randn(128, 64), blocky(128, 64, block, 0.3), block)
    groups = row_groups(bsr, gather_cost=gather_cost)
    rebuilt = torch.zeros(128, 64)
    for group in groups.groups:
        rows = slice(group.start, group.start + len(group.weight))
        rebuilt[rows, group.columns] = group.weight
        assert group.columns.dtype == torch.int64
        assert bool((group.columns.diff() > 0).all())
    assert torch.equal(rebuilt, to_dense(bsr))
    assert [g.start for g in groups.groups] == torch.tensor([0, *(len(g.weight) for g in groups.groups)]).cumsum(0)[
        :-1
    ].tolist()


def test_equal_neighbours_become_one_group_and_different_ones_stay_apart() -> None:
    mask = torch.zeros(192, 64, dtype=torch.bool)
    mask[:64, :16] = mask[64:128, :16] = mask[128:, 32:] = True
    groups = row_groups(pack(torch.randn(192, 64), mask, (64, 16)), gather_cost=0.0).groups
    assert [len(group.weight) for group in groups] == [128, 64]
    assert groups[1].columns.tolist() == list(range(32, 64))


def test_a_large_gather_cost_gives_one_group_that_reads_every_used_column(blocky: Blocky) -> None:
    bsr = pack(torch.randn(128, 64), blocky(128, 64, (16, 8), 0.2), (16, 8))
    groups = row_groups(bsr, gather_cost=1e9).groups
    assert len(groups) == 1
    assert len(groups[0].columns) == 8 * int(stored(bsr).any(dim=0).sum())


def test_an_empty_weight_still_gives_rows() -> None:
    groups = row_groups(pack(torch.randn(32, 16), torch.zeros(32, 16, dtype=torch.bool), (16, 16)))
    assert sum(len(group.weight) for group in groups.groups) == 32
    assert all(not group.weight.any() for group in groups.groups)


def test_tightest_block_finds_the_blocks_that_survived_a_cut(blocky: Blocky) -> None:
    mask = blocky(64, 32, (16, 4), 0.5)
    assert tightest_block(mask, (16, 4)) == (16, 4)
    rows = torch.tensor([i for i in range(64) if i % 16 < 8])  # half of each block's rows were removed
    assert tightest_block(mask[rows], (16, 4)) == (8, 4)
    assert tightest_block(torch.rand(64, 32) < 0.5, (16, 4)) == (1, 1)


def test_aligned_width() -> None:
    assert aligned_width(range(16, 48), 64) == 16
    assert aligned_width([*range(0, 8), *range(24, 32)], 64) == 8
    assert aligned_width(range(4, 20), 64) == 1
    assert aligned_width(range(32), 100) == 1

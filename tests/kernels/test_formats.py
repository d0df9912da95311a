"""The exchange format: exact round trips, and clear refusals."""

import itertools
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import Block, block_mask, from_bsr, pack, pack_masked, tightest_block, unpack
from vlcompress.kernels.synthetic import masked, random_mask

Blocky = Callable[..., Tensor]
SIDES = (1, 5, 16, 128)


@pytest.mark.parametrize("block", list(itertools.product(SIDES, SIDES)), ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.7, 1.0])
def test_round_trip_is_bit_exact(block: tuple[int, int], sparsity: float) -> None:
    w_NK = masked(torch.randn(640, 640), random_mask((640, 640), block, sparsity)).bfloat16()
    assert torch.equal(unpack(pack(w_NK, block)), w_NK)


def test_a_kept_block_of_zeros_stays_stored() -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert pack(torch.zeros(32, 32), (16, 16), mask).pattern.nnz == 4


def test_packing_lxmert_base_takes_at_most_two_seconds() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shapes = {(768, 768): 120, (3072, 768): 22, (768, 3072): 22}
    weights = {shape: masked(torch.randn(shape), random_mask(shape, (64, 64), 0.7)) for shape in shapes}
    took = []
    while len(took) < 3 and (not took or min(took) > 2.0):  # a busy machine may need another try
        start = time.process_time()
        for shape, count in shapes.items():
            for _ in range(count):
                pack(weights[shape], (64, 64))
        took.append(time.process_time() - start)
    torch.set_num_threads(threads)
    assert min(took) <= 2.0


BSR = {
    "values": torch.randn(3, 16, 16),
    "crow": torch.tensor([0, 2, 3]),
    "col": torch.tensor([0, 1, 1]),
    "shape": (32, 32),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crow": torch.tensor([0, 2, 2])}, "crow must rise from 0 to nnz=3"),
        ({"crow": torch.tensor([0, 4, 3])}, "without descending"),
        ({"crow": torch.tensor([0, 3])}, r"must be \[3\] and \[3\]"),
        ({"crow": torch.tensor([0.0, 2.0, 3.0])}, "must be integers"),
        ({"col": torch.tensor([0, 2, 1])}, "col holds 0..2: allowed are 0..1"),
        ({"col": torch.tensor([-1, 1, 1])}, "col holds -1..1"),
        ({"col": torch.tensor([1, 1, 1])}, "must ascend"),
        ({"values": torch.full((3, 16, 16), float("nan"))}, "768 of 768 values are not finite"),
        ({"values": torch.randn(3, 16, 24)}, "block 16x24 does not fit a weight of 32x32: K=32"),
        ({"values": torch.ones(3, 16, 16, dtype=torch.int8)}, "dtype torch.int8 is not supported"),
        ({"values": torch.randn(3, 256)}, r"must have shape \[nnz, R, C\]"),
        ({"shape": (32, 40)}, "K=40 is not a positive multiple of the block side 16"),
        ({"shape": (0, 32)}, "N=0 is not a positive multiple"),
    ],
)
def test_bad_input_is_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        from_bsr(**{**BSR, **change})  # type: ignore[arg-type]


def test_packing_never_changes_the_weight() -> None:
    with pytest.raises(KernelInputError, match="drops 3 blocks that are not zero"):
        pack(torch.ones(32, 32), (16, 16), torch.eye(2, dtype=torch.bool) & torch.tensor([True, False]))
    with pytest.raises(KernelInputError, match="mask must be bool"):
        pack(torch.ones(32, 32), (16, 16), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(KernelInputError, match="not finite"):
        pack(torch.full((32, 32), float("inf")), (16, 16))


@pytest.mark.parametrize("block", [(1, 1), (16, 16), (64, 4), (128, 1), (4, 32)], ids=lambda b: f"{b[0]}x{b[1]}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_of_weights_is_packed_bit_by_bit(blocky: Blocky, block: Block, dtype: torch.dtype) -> None:
    weight = torch.randn(128, 64, dtype=dtype)
    mask = blocky(128, 64, block, 0.4)
    bsr = pack_masked(weight, mask, block)
    assert bsr.values.shape[1:] == block
    assert (bsr.pattern.crow.dtype, bsr.pattern.col.dtype) == (torch.int32, torch.int32)
    expected = torch.where(mask, weight, torch.zeros((), dtype=dtype))
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[dtype]
    assert torch.equal(unpack(bsr).view(bits), expected.view(bits))
    assert torch.equal(bsr.pattern.stored, block_mask(mask, block))


def test_pruned_weights_inside_a_kept_block_are_stored_as_zero() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    bsr = pack_masked(torch.ones(4, 4), mask, (2, 2))
    assert bsr.values.flatten().tolist() == [1, 0, 0, 0]
    assert bsr.density == 0.25


def test_a_block_that_does_not_divide_names_the_sizes() -> None:
    with pytest.raises(KernelInputError, match="block 3x2 does not fit a weight of 4x4"):
        pack_masked(torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool), (3, 2))


def test_tightest_block_finds_the_blocks_that_survived_a_cut(blocky: Blocky) -> None:
    mask = blocky(64, 32, (16, 4), 0.5)
    assert tightest_block(mask, (16, 4)) == (16, 4)
    rows = torch.tensor([i for i in range(64) if i % 16 < 8])  # half of each block's rows were removed
    assert tightest_block(mask[rows], (16, 4)) == (8, 4)
    assert tightest_block(torch.rand(64, 32) < 0.5, (16, 4)) == (1, 1)

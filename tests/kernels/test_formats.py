"""The exchange format and the streams: exact round trips, streams that visit every block once, and clear refusals."""

import itertools
import time

import pytest
import torch

from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BLOCK_SIDES, Stream, from_bsr, pack, part_counts, part_of, stack_rows, unpack
from vlcompress.kernels.synthetic import masked, random_mask, random_weight


@pytest.mark.parametrize("block", list(itertools.product(BLOCK_SIDES, BLOCK_SIDES)), ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.7, 1.0])
def test_round_trip_is_bit_exact(block: tuple[int, int], sparsity: float) -> None:
    w_NK = masked(torch.randn(256, 384), random_mask((256, 384), block, sparsity)).bfloat16()
    assert torch.equal(unpack(pack(w_NK, block)), w_NK)


def test_a_kept_block_of_zeros_stays_stored() -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert pack(torch.zeros(32, 32), (16, 16), mask).pattern.nnz == 4


def entries(stream: Stream) -> list[tuple[int, int, int, int]]:
    """(output, input, slot, last) of each step, by the documented bit layout."""
    return [(e >> 16 & 0x7FFF, e & 0x7FFF, e >> 32, e >> 15 & 1) for e in stream.walk[:-1].tolist()]


@pytest.mark.parametrize("direction", ["forward", "transposed"])
def test_stream_visits_every_block_once_and_owns_every_output(direction: str) -> None:
    pattern = random_weight((256, 320), (32, 64), 0.8, empty_row=2).pattern
    steps = entries(getattr(pattern, direction))
    output, source = (pattern.row, pattern.col) if direction == "forward" else (pattern.col, pattern.row)
    outputs = 256 // 32 if direction == "forward" else 320 // 64
    real = [(o, i, s) for o, i, s, _ in steps if s < pattern.nnz]
    assert sorted(real, key=lambda step: step[2]) == [
        (int(o), int(i), s) for s, (o, i) in enumerate(zip(output, source, strict=True))
    ]
    assert [o for o, *_, last in steps if last] == list(range(outputs))
    assert all(slot == pattern.nnz for o, _, slot, _ in steps if o not in output.tolist())


@pytest.mark.parametrize("outputs", [1, 2, 5, 12, 48])
def test_cuts_are_balanced_and_fall_between_outputs(outputs: int) -> None:
    pattern = random_weight((outputs * 16, 512), (16, 16), 0.6).pattern
    ends = [0] + [i + 1 for i, (*_, last) in enumerate(entries(pattern.forward)) if last]
    longest = max(b - a for a, b in itertools.pairwise(ends))
    for parts in part_counts(outputs):
        cuts = part_of(pattern.forward, outputs, parts).tolist()
        assert (cuts[0], cuts[-1]) == (0, ends[-1])
        assert set(cuts) <= set(ends)
        assert max(b - a for a, b in itertools.pairwise(cuts)) <= ends[-1] / parts + longest
    assert part_of(pattern.forward, outputs, outputs).tolist() == ends


def test_stacked_rows_are_the_concatenated_weight() -> None:
    parts = [random_weight((64, 128), (32, 32), 0.5, seed=seed) for seed in range(3)]
    assert torch.equal(unpack(stack_rows(parts)), torch.cat([unpack(part) for part in parts]))


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
        ({"values": torch.randn(3, 16, 24)}, r"block \(16, 24\) is not supported"),
        ({"values": torch.ones(3, 16, 16, dtype=torch.int8)}, "dtype torch.int8 is not supported"),
        ({"values": torch.randn(3, 256)}, r"must have shape \[nnz, R, C\]"),
        ({"shape": (32, 40)}, "K=40 is not a positive multiple of the block side 16"),
        ({"shape": (0, 32)}, "N=0 is not a positive multiple"),
        ({"shape": (32, 16 * (1 << 15))}, "more than 32767 blocks"),
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


def test_stacking_refuses_weights_that_read_different_inputs() -> None:
    base = random_weight((32, 32), (16, 16), 0.5)
    with pytest.raises(KernelInputError, match="cannot stack K=64"):
        stack_rows([base, random_weight((32, 64), (16, 16), 0.5)])
    with pytest.raises(KernelInputError, match=r"cannot stack torch.bfloat16"):
        stack_rows([base, base.to(dtype=torch.bfloat16)])

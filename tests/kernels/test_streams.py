"""The streams: every stored block visited once, every output owned, cuts that are balanced."""

import itertools

import pytest
import torch

from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockPattern
from vlcompress.kernels.streams import Stream, part_counts, part_of
from vlcompress.kernels.synthetic import random_weight


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
    assert sorted(o for o, *_, last in steps if last) == list(range(outputs))
    assert all(slot == pattern.nnz for o, _, slot, _ in steps if o not in output.tolist())


def test_the_longest_outputs_come_first() -> None:
    """Rows of 1, 3, 0 and 2 blocks: the empty one owns a step, and equal lengths keep their order."""
    crow = torch.tensor([0, 1, 4, 4, 6], dtype=torch.int32)
    stream = BlockPattern((64, 64), (16, 16), crow, torch.tensor([0, 0, 1, 2, 1, 3], dtype=torch.int32)).forward
    assert [o for o, *_ in entries(stream)] == [1, 1, 1, 3, 3, 0, 2]
    assert (stream.longest, stream.entries) == ((7, 4, 3, 3), 7)


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


def test_a_weight_of_too_many_blocks_has_no_stream() -> None:
    wide = BlockPattern((32, 16 << 15), (16, 16), torch.zeros(3, dtype=torch.int32), torch.zeros(0, dtype=torch.int32))
    with pytest.raises(KernelInputError, match="more than 32767 blocks"):
        _ = wide.forward

"""The work lists: every stored block visited once, every output owned, cuts that are balanced."""

import itertools

import pytest
import torch
from torch import Tensor

from tests.kernels.simulated import part_of, pattern_of
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import BlockPattern
from vlcompress.kernels.synthetic import random_mask, random_weight
from vlcompress.kernels.work_list import WorkList, part_counts


def entries(work_list: WorkList) -> list[tuple[int, int, int, int]]:
    """(output, input, slot, last) of each step in the first order, by the documented bit layout."""
    return unpacked(work_list.steps[: work_list.entries])


def unpacked(steps: Tensor) -> list[tuple[int, int, int, int]]:
    return [(e >> 16 & 0x7FFF, e & 0x7FFF, e >> 32, e >> 15 & 1) for e in steps.tolist()]


@pytest.mark.parametrize("direction", ["forward", "transposed"])
def test_a_work_list_visits_every_block_once_and_owns_every_output(direction: str) -> None:
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
    work_list = BlockPattern((64, 64), (16, 16), crow, torch.tensor([0, 0, 1, 2, 1, 3], dtype=torch.int32)).forward
    assert [o for o, *_ in entries(work_list)] == [1, 1, 1, 3, 3, 0, 2]
    assert (work_list.longest, work_list.entries) == ((7, 4, 3, 3), 7)


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("outputs", [1, 2, 5, 12, 48])
def test_parts_are_whole_outputs_of_about_equal_length(outputs: int, skew: float) -> None:
    work_list = pattern_of(random_mask((outputs * 16, 512), (16, 16), 0.6, skew=skew), (16, 16)).forward
    steps = sorted(entries(work_list))
    longest_output = work_list.longest[-1]
    for parts, longest in zip(part_counts(outputs), work_list.longest, strict=True):
        cuts = part_of(work_list, outputs, parts).tolist()
        assert sorted(unpacked(work_list.steps[cuts[0] : cuts[-1]])) == steps, "every step once"
        for begin, end in itertools.pairwise(cuts):
            assert begin == end or work_list.steps[end - 1] >> 15 & 1, "a cut inside an output"
        lengths = [end - begin for begin, end in itertools.pairwise(cuts)]
        assert max(lengths) == longest <= work_list.entries / parts + longest_output


def test_outputs_are_dealt_to_parts_longest_first() -> None:
    """Lengths 4, 3, 3, 2 in two parts: neighbours make 7 and 5, the longest with the shortest 6 and 6."""
    mask = torch.arange(4) < torch.tensor([4, 3, 3, 2])[:, None]
    work_list = pattern_of(mask, (16, 16)).forward
    begin, middle, end = part_of(work_list, 4, 2).tolist()
    assert [{o for o, *_ in unpacked(work_list.steps[a:b])} for a, b in ((begin, middle), (middle, end))] == [
        {0, 3},
        {1, 2},
    ]
    assert work_list.longest == (12, 6, 5, 4)


def test_a_weight_of_too_many_blocks_has_no_work_list() -> None:
    wide = BlockPattern((32, 16 << 15), (16, 16), torch.zeros(3, dtype=torch.int32), torch.zeros(0, dtype=torch.int32))
    with pytest.raises(KernelInputError, match="more than 32767 blocks"):
        _ = wide.forward

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.pruning.pattern import Block, NofM, Unstructured
from vlcompress.pruning.patterns import parse_pattern


def test_names_are_read_and_written_back() -> None:
    assert parse_pattern("unstructured") == Unstructured()
    assert parse_pattern("block:16x4") == Block(16, 4)
    assert str(Block(16, 4)) == "block:16x4"
    assert parse_pattern("2:4") == NofM(2, 4)
    assert str(NofM(4, 8)) == "4:8"


@pytest.mark.parametrize(
    "text", ["block", "block:16", "block:0x4", "block:4x", "2:4x", "4:4", "4:2", "0:4", "2:", "Block:2x2", ""]
)
def test_unknown_pattern_names_what_is_allowed(text: str) -> None:
    with pytest.raises(VlcompressError, match=f"unknown pattern '{text}': allowed are 'unstructured', 'block:RxC'"):
        parse_pattern(text)


def test_block_scores_are_root_mean_squares_so_that_sizes_compare() -> None:
    scores = torch.tensor([[3.0, 3.0, 0.0, 1.0], [3.0, 3.0, 1.0, 0.0]])
    assert Block(2, 2).unit_scores(scores).tolist() == pytest.approx([3.0, 0.5**0.5])
    assert Block(1, 4).unit_scores(torch.full((2, 4), 7.0)).tolist() == [7.0, 7.0]


def test_block_bools_spread_over_their_weights() -> None:
    mask = Block(1, 2).spread(torch.tensor([True, False, False, True]), torch.Size((2, 4)))
    assert mask.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_block_that_does_not_divide_names_weight_and_fix() -> None:
    with pytest.raises(VlcompressError, match=r"'block:16x5' does not divide weight 'w' \(32, 48\).*block:16x1"):
        Block(16, 5).check_weight("w", torch.Size((32, 48)))
    with pytest.raises(VlcompressError, match=r"rows divide 24 and whose columns divide 32, for example block:8x16"):
        Block(16, 16).check_weight("w", torch.Size((24, 32)))


def test_patterns_without_blocks_are_packed_by_single_weights() -> None:
    assert Unstructured().storage == NofM(2, 4).storage == (1, 1)
    assert Block(16, 4).storage == (16, 4)


def test_n_of_m_on_a_width_that_m_does_not_divide_names_weight_and_fix() -> None:
    NofM(2, 4).check_weight("w", torch.Size((3, 8)))
    with pytest.raises(
        VlcompressError, match=r"'2:4' does not divide weight 'w' \(32, 6\): 4 must divide its 6 inputs"
    ):
        NofM(2, 4).check_weight("w", torch.Size((32, 6)))
    with pytest.raises(
        VlcompressError, match=r"weight 'c' \(8, 4, 3, 3\) is none \(a convolution\): use 'unstructured'"
    ):
        NofM(2, 4).check_weight("c", torch.Size((8, 4, 3, 3)))


def test_what_a_pattern_reaches_may_be_given_rounded_and_no_more() -> None:
    assert NofM(1, 3).share(0.666667, {}) == 1 - 1 / 3
    assert NofM(2, 4).share(0.3, {}) == 0.3
    assert Block(2, 2).share(0.9, {}) == Unstructured().share(0.9, {}) == 0.9
    with pytest.raises(
        VlcompressError, match=r"sparsity 0.7 is out of reach of pattern '2:4'.*give sparsity 0.5 or less"
    ):
        NofM(2, 4).share(0.7, {})

"""Block growth: which round prunes which size, and what holds when a size changes."""

from itertools import pairwise

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Magnitude
from vlcompress.pruning.growth import parse_growth
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Block, Unstructured
from vlcompress.pruning.patterns import parse_pattern

WEIGHTS = {
    "a": torch.randn(64, 48, generator=torch.Generator().manual_seed(3)),
    "b": torch.randn(32, 16, generator=torch.Generator().manual_seed(4)) * 0.3,
}
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("growth", "pattern", "rounds", "expected"),
    [
        ("", "block:16x16", 3, ["block:16x16"] * 3),
        ("16x1", "unstructured", 3, ["unstructured"] * 3),
        ("16x1", "block:16x16", 2, ["block:16x1", "block:16x16"]),
        ("16x1,16x16", "block:16x16", 3, ["block:16x1"] * 2 + ["block:16x16"]),
        ("4x1,16x16", "block:32x16", 7, ["block:4x1"] * 3 + ["block:16x16"] * 2 + ["block:32x16"] * 2),
    ],
)
def test_rounds_go_from_fine_to_the_recipes_pattern(growth: str, pattern: str, rounds: int, expected: list) -> None:
    assert [str(one) for one in parse_growth(growth).patterns(parse_pattern(pattern), rounds)] == expected


@pytest.mark.parametrize(
    ("growth", "pattern", "rounds", "text"),
    [
        ("16x1", "head", 3, "growth '16x1' with pattern 'head': only blocks grow"),
        ("16x1,64x16", "block:64x64", 2, r"has 3 sizes and the schedule 2 round\(s\): give fewer sizes"),
        ("6x1", "block:16x16", 3, "block:16x16 is not made of whole block:6x1"),
        ("16x16,16x1", "block:16x16", 3, "block:16x1 is not made of whole block:16x16"),
        ("32x32", "block:16x16", 3, "block:16x16 is not made of whole block:32x32"),
        ("sixteen", "block:16x16", 3, "unknown pattern 'sixteen of pruning.growth'"),
        ("8x1,8x1", "block:16x16", 3, "block:8x1 is not made of whole block:8x1"),
    ],
)
def test_growth_that_cannot_be(growth: str, pattern: str, rounds: int, text: str) -> None:
    with pytest.raises(VlcompressError, match=text):
        parse_growth(growth).patterns(parse_pattern(pattern), rounds)


def _gone(mask: torch.Tensor, block: Block) -> torch.Tensor:
    """Tell which weights lie in blocks that are gone as a whole."""
    return ~block.spread(block.unit_scores(mask.float()) > 0, mask.shape)


def test_sparsity_follows_the_schedule_and_a_block_that_is_gone_never_comes_back() -> None:
    patterns = parse_growth("4x1,4x4").patterns(Block(16, 8), len(LEVELS))
    history = [Masks.keep_all(WEIGHTS)]
    for level, pattern in zip(LEVELS, patterns, strict=True):
        masks = prune(WEIGHTS, history[-1], level, pattern=pattern, criterion=Magnitude(), allocation=Global())
        assert isinstance(pattern, Block)
        units = masks.total // pattern.unit
        assert masks.total - masks.kept == round(level * units) * pattern.unit
        for name, mask in masks.items():
            assert torch.equal(_gone(mask, pattern), ~mask)  # whole blocks of this round's size
            assert not (mask & _gone(history[-1][name], pattern)).any()
        history.append(masks)
    for before, after, pattern, same in zip(history[1:], history[2:], patterns[1:], pairwise(patterns), strict=False):
        if same[0] == same[1]:
            assert all(not (after[name] & ~before[name]).any() for name in after), pattern


def test_a_large_block_is_scored_by_its_survivors() -> None:
    """Of two blocks with the same weights left, the thinned one goes; the other comes back whole."""
    weights = {"a": torch.ones(4, 8)}
    before = Masks({"a": torch.ones(4, 8, dtype=torch.bool)})
    before["a"][:2, :4] = False
    before["a"][:1, 4:] = False
    trained = {"a": weights["a"] * before["a"]}
    after = prune(trained, before, 0.5, pattern=Block(4, 4), criterion=Magnitude(), allocation=Global())
    assert not after["a"][:, :4].any()
    assert after["a"][:, 4:].all()
    assert isinstance(parse_growth("4x1").patterns(Unstructured(), 2)[0], Unstructured)


@pytest.mark.parametrize("text", ["", "16x1", "4x4,8x8"])
def test_sizes_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_growth(text)) == text
    assert bool(parse_growth(text)) == bool(text)

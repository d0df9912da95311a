"""Pruning as a whole: exact counts, the peer's mask, and the masks of the papers' released code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune as torch_prune

from vlcompress.errors import VlcompressError
from vlcompress.pruning.allocation import Allocation, Global, Modality, Uniform, parse_allocation
from vlcompress.pruning.criterion import Magnitude, Random, parse_criterion
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Block, NofM, Pattern, Unstructured
from vlcompress.pruning.schedule import Geometric, Linear, levels

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pruning"
WEIGHTS = {
    "a": torch.randn(32, 48, generator=torch.Generator().manual_seed(3)),
    "b": torch.randn(16, 16, generator=torch.Generator().manual_seed(4)) * 0.3,
}


def magnitude(masks: Masks, sparsity: float, pattern: Pattern | None = None, weights=WEIGHTS) -> Masks:
    return prune(
        weights, masks, sparsity, pattern=pattern or Unstructured(), criterion=Magnitude(), allocation=Global()
    )


def test_same_mask_as_torch_global_unstructured() -> None:
    layers = [nn.Linear(48, 32), nn.Linear(16, 16)]
    for layer, weight in zip(layers, WEIGHTS.values(), strict=True):
        layer.weight.data.copy_(weight)
    torch_prune.global_unstructured([(layer, "weight") for layer in layers], torch_prune.L1Unstructured, amount=0.3)
    ours = magnitude(Masks.keep_all(WEIGHTS), 0.3)
    for layer, mask in zip(layers, ours.values(), strict=True):
        assert torch.equal(layer.weight_mask.bool(), mask)


@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 8), Block(16, 1)], ids=str)
def test_exactly_the_asked_number_goes_and_stays_gone(pattern: Pattern) -> None:
    masks = Masks.keep_all(WEIGHTS)
    for level in (0.25, 0.5, 0.75):
        before, masks = masks, magnitude(masks, level, pattern)
        units = masks.total // pattern.unit
        assert masks.total - masks.kept == round(level * units) * pattern.unit
        assert all(not (masks[name] & ~before[name]).any() for name in masks)


@pytest.mark.parametrize("pattern", [NofM(2, 4), NofM(1, 4), NofM(5, 8), NofM(1, 2)], ids=str)
@pytest.mark.parametrize("allocation", [Global(), Uniform(), Modality()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("by", ["magnitude", "high-magnitude", "random", "gradient", "movement"])
def test_rounds_end_with_exactly_n_of_every_m(pattern: NofM, allocation: Allocation, by: str) -> None:
    rng = torch.Generator().manual_seed(9)
    masks = Masks.keep_all(WEIGHTS)
    for level in (0.4 * pattern.reach, 0.8 * pattern.reach, pattern.reach):
        sums = {name: torch.randn(weight.shape, generator=rng) for name, weight in WEIGHTS.items()}
        sums = sums if by == "movement" else {name: one.abs() for name, one in sums.items()}
        criterion, before = parse_criterion(by).of(0, sums), masks
        masks = prune(WEIGHTS, before, level, pattern=pattern, criterion=criterion, allocation=allocation)
        if isinstance(allocation, Global):
            assert masks.total - masks.kept == round(level * masks.total)
        assert all(not (masks[name] & ~before[name]).any() for name in masks)
        kept = torch.cat([mask.view(-1, pattern.of).sum(dim=1) for mask in masks.values()])
        assert (kept >= pattern.kept).all()
    assert (kept == pattern.kept).all()


def test_n_of_m_keeps_the_highest_of_each_group_and_ties_go_by_index() -> None:
    weights = {"a": torch.tensor([[1.0, 4.0, 3.0, 2.0, 9.0, 9.0, 9.0, 9.0]])}
    masks = magnitude(Masks.keep_all(weights), 0.5, NofM(2, 4), weights)
    assert masks["a"].int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1]]
    with pytest.raises(VlcompressError, match=r"sparsity 0.6 is out of reach of pattern '2:4'"):
        magnitude(masks, 0.6, NofM(2, 4), weights)


def test_ties_are_broken_by_index_and_never_over_pruned() -> None:
    equal = {"a": torch.ones(4, 4), "b": torch.ones(4, 4)}
    masks = magnitude(Masks.keep_all(equal), 0.25, weights=equal)
    assert masks["a"].flatten().tolist() == [False] * 8 + [True] * 8
    assert masks["b"].all()


def test_global_lets_weights_compete_and_uniform_does_not() -> None:
    free = magnitude(Masks.keep_all(WEIGHTS), 0.5).layer_sparsity()
    even = prune(
        WEIGHTS,
        Masks.keep_all(WEIGHTS),
        0.5,
        pattern=Unstructured(),
        criterion=Magnitude(),
        allocation=Uniform(),
    ).layer_sparsity()
    assert free["b"] > 0.8 > 0.5 > free["a"]
    assert even == {"a": 0.5, "b": 0.5}


def test_each_modality_reaches_the_sparsity_and_its_weights_compete() -> None:
    rng = torch.Generator().manual_seed(6)
    scales = {"lxmert.encoder.layer.0": 3.0, "lxmert.encoder.layer.1": 1.0, "lxmert.encoder.r_layers.0": 0.1}
    weights = {f"{name}.query.weight": scale * torch.randn(16, 16, generator=rng) for name, scale in scales.items()}
    masks = prune(
        weights,
        Masks.keep_all(weights),
        0.5,
        pattern=Block(4, 4),
        criterion=Magnitude(),
        allocation=Modality(),
    )
    large, small, vision = masks.layer_sparsity().values()
    assert vision == 0.5
    assert large + small == 1.0
    assert small > 0.8


def test_random_control_has_the_sparsity_but_not_the_magnitudes() -> None:
    draw = [
        prune(
            WEIGHTS,
            Masks.keep_all(WEIGHTS),
            0.5,
            pattern=Unstructured(),
            criterion=Random(seed),
            allocation=Global(),
        )
        for seed in (0, 0, 1)
    ]
    assert draw[0].sha256() == draw[1].sha256() != draw[2].sha256()
    assert draw[0].sparsity == 0.5
    kept = torch.cat([WEIGHTS[name][draw[0][name]] for name in WEIGHTS]).abs().mean()
    everything = torch.cat([weight.flatten() for weight in WEIGHTS.values()]).abs().mean()
    assert kept == pytest.approx(float(everything), rel=0.1)


def test_block_that_does_not_divide_and_unknown_allocation() -> None:
    with pytest.raises(VlcompressError, match="does not divide weight 'a'"):
        magnitude(Masks.keep_all(WEIGHTS), 0.5, Block(5, 5))
    with pytest.raises(VlcompressError, match=r"unknown allocation 'globl'.*did you mean 'global'"):
        parse_allocation("globl")


def test_diverged_weights_are_refused() -> None:
    diverged = {"a": torch.tensor([[1.0, float("nan")]])}
    with pytest.raises(VlcompressError, match="weight 'a' gives a score that is not a finite number"):
        magnitude(Masks.keep_all(diverged), 0.5, weights=diverged)


@pytest.mark.parametrize("case", ["bert_tickets_3rounds", "cv_lth_3rounds"])
def test_mask_sequence_of_the_papers_released_code(case: str) -> None:
    """Same masks, bit for bit, from the weights that the official code pruned (see the fixtures' meta.json)."""
    meta = json.loads((FIXTURES / case / "meta.json").read_text())
    rounds = load_file(FIXTURES / case / "rounds.safetensors")
    trained_layout = meta.get("layout_trained_name_shape_offset") or meta["layout_name_shape_offset"]
    mask_layout = meta.get("layout_mask_name_shape_offset") or meta["layout_name_shape_offset"]
    prunable = [name for name, _, _ in mask_layout]
    masks = None
    for number in (1, 2, 3):
        trained = _tensors(rounds[f"round{number}/trained"], trained_layout)
        official = rounds[f"round{number}/mask"].bool()
        masks = masks or Masks.keep_all({name: trained[name] for name in prunable})
        # the official count is rounded on what remains, round by round: take it over, and compare which weights go
        masks = magnitude(masks, 1 - int(official.sum()) / len(official), weights=trained)
        assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), official)


def test_schedules_agree_with_the_papers_released_code_to_the_rounding() -> None:
    for case, schedule in (("bert_tickets_3rounds", Linear(0.1)), ("cv_lth_3rounds", Geometric(0.2))):
        rounds = load_file(FIXTURES / case / "rounds.safetensors")
        for number, level in enumerate(levels(schedule, 0.6, rounds=3), start=1):
            official = rounds[f"round{number}/mask"]
            assert round(level * len(official)) == pytest.approx(len(official) - int(official.sum()), abs=2)


def _tensors(flat: torch.Tensor, layout: list[tuple[str, list[int], int]]) -> dict[str, torch.Tensor]:
    return {name: flat[offset : offset + torch.Size(shape).numel()].reshape(shape) for name, shape, offset in layout}

"""Reordering neurons and channels: the model computes the same, and the blocks keep more."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlcompress.models.base import Coupling, Head, HeadKind
from vlcompress.models.registry import family_named
from vlcompress.pruning.allocation import Uniform
from vlcompress.pruning.criterion import Magnitude, Movement
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Block
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.pruning.permutation import Permutation, _improved, find_permutation, parse_reordering, search
from vlcompress.pruning.permutation import Profile as UnitProfile

NEURONS = Coupling("neuron", ("up.weight",), "down.weight", units=32, unit_size=1, constant_from="up.weight")
HEADS = Coupling("head", ("q.weight", "k.weight", "v.weight"), "o.weight", 2, 16, constant_from="v.weight")
SHAPES = {"up": (32, 16), "down": (16, 32), **dict.fromkeys(("q", "k", "v"), (32, 16)), "o": (16, 32)}


def scattered(seed: int = 0) -> dict[str, Tensor]:
    """Layers whose important rows and columns lie far apart, in groups that share what they read and write."""
    rng = torch.Generator().manual_seed(seed)
    weights = {f"{name}.weight": 0.1 * torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}
    for one in weights.values():
        wide = one if one.shape[0] == 32 else one.T
        for unit in range(32):
            first = 8 * (unit % 2)
            wide[unit, first : first + 4] += 1.0
    return weights | {f"{name}.bias": torch.randn(shape[0], generator=rng) for name, shape in SHAPES.items()}


def kept_mass(weights: dict[str, Tensor], pattern: Block, sparsity: float) -> float:
    matrices = {name: one for name, one in weights.items() if one.dim() == 2}
    masks = prune(
        matrices,
        Masks.keep_all(matrices),
        sparsity,
        pattern=pattern,
        criterion=Magnitude(),
        allocation=Uniform(),
    )
    return float(sum(matrices[name][mask].square().sum() for name, mask in masks.items()))


def permutation(weights: dict[str, Tensor], pattern: Block, what: str = "neurons+channels") -> Permutation:
    frees = parse_reordering(what).free(pattern, [HEADS, NEURONS])
    names = {name for name in weights if name.endswith("weight")}
    return find_permutation(frees, pattern, weights, names, criterion=Magnitude(), sparsity=0.75)


@pytest.mark.parametrize("pattern", [Block(8, 8), Block(8, 4), Block(4, 8), Block(16, 1)], ids=str)
def test_blocks_keep_more_mass(pattern: Block) -> None:
    weights = scattered()
    order = permutation(weights, pattern)
    assert kept_mass(order.apply(weights), pattern, 0.75) > 1.1 * kept_mass(weights, pattern, 0.75)


@pytest.mark.parametrize("seed", range(3))
def test_kept_mass_never_falls_whatever_the_weights(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    profile = UnitProfile(((8, torch.rand(32, 4, generator=rng)), (4, torch.rand(32, 6, generator=rng))))
    for span in (32, 16):
        order = search(profile, span, keep=0.4)
        assert sorted(order.tolist()) == list(range(32))
        assert torch.equal(order // span, torch.arange(32) // span)
        assert profile.best(order, 0.4)[0] >= profile.best(torch.arange(32), 0.4)[0]


@pytest.mark.parametrize("span", [32, 16])
def test_units_that_share_blocks_come_together_from_any_order(span: int) -> None:
    saliency = torch.full((32, 4), 0.1, dtype=torch.float64)
    saliency[0::2, :2] = 1.0  # every second unit reads the first half
    saliency[1::2, 2:] = 1.01
    start = torch.arange(32)
    profile = UnitProfile(((8, saliency),))
    kept, order = _improved(profile, start, span, keep=0.5)
    assert kept == profile.best(order, 0.5)[0] == pytest.approx(16 * 2 * (1.0 + 1.01))  # nothing of 0.1 is kept
    assert torch.equal(order // span, start // span)


def _ffn(w: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x @ w["up.weight"].T + w["up.bias"]).relu() @ w["down.weight"].T + w["down.bias"]


def _attention(w: dict[str, Tensor], x: Tensor) -> Tensor:
    q, k, v = ((x @ w[f"{n}.weight"].T + w[f"{n}.bias"]).view(-1, 2, 16).transpose(0, 1) for n in "qkv")
    context = (q @ k.transpose(1, 2)).softmax(dim=2) @ v
    return context.transpose(0, 1).reshape(-1, 32) @ w["o.weight"].T + w["o.bias"]


@pytest.mark.parametrize("layer", [_ffn, _attention])
def test_layers_compute_the_same(layer: Callable[[dict[str, Tensor], Tensor], Tensor]) -> None:
    weights = scattered()
    order = permutation(weights, Block(8, 8))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    moved = order.apply(weights)
    torch.testing.assert_close(layer(moved, x), layer(weights, x))
    assert any(not torch.equal(moved[name], weights[name]) for name in weights)
    only = permutation(weights, Block(8, 8), "neurons").apply(weights)
    assert torch.equal(only["v.weight"], weights["v.weight"])
    assert not torch.equal(only["up.weight"], weights["up.weight"])


@pytest.mark.parametrize(
    ("name", "kind"), [("lxmert", "answers"), ("lxmert", "pair"), ("uniter", "region"), ("vilt", "answers")]
)
def test_models_of_every_family_compute_the_same(name: str, kind: HeadKind) -> None:
    """LXMERT's shared cross attention included: every coupling is reordered by weights that are far from equal."""
    family = family_named(name)
    config = family.config("tiny", vocab_size=30, feature_dim=0 if name == "vilt" else 8)
    model = family.build(config, Head(kind, ("a", "b")), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.3)
    inputs = family.example_inputs(config, batch=4, text=5, regions=3, seed=0)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    prunable = set(family.prunable(model, "bert-tickets").names)
    frees = parse_reordering("neurons+channels").free(Block(4, 4), family.couplings(model))
    order = find_permutation(frees, Block(4, 4), state, prunable, criterion=Magnitude(), sparsity=0.5)
    with torch.no_grad():
        before = family.logits(model, inputs)
        model.load_state_dict(order.apply(state))
        after = family.logits(model, inputs)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, state[key])}
    assert {free.rows[0] for free in frees} <= changed


def test_scores_of_either_sign_gather_too() -> None:
    weights = {name: one for name, one in scattered().items() if name.startswith(("up", "down"))}
    sums = {name: one - 0.3 for name, one in weights.items()}
    names = {"up.weight", "down.weight"}
    frees = parse_reordering("neurons").free(Block(8, 8), [NEURONS])
    order = find_permutation(frees, Block(8, 8), weights, names, criterion=Movement(sums), sparsity=0.5)
    before, after = (
        torch.cat([Block(8, 8).unit_means(one[name]) for name in names]).topk(8).values.sum()
        for one in (sums, order.apply(sums))
    )
    assert after > before


def test_only_what_is_cut_into_blocks_is_reordered() -> None:
    couplings = [HEADS, NEURONS]
    assert parse_reordering("neurons+channels").free(parse_pattern("unstructured"), couplings) == []
    assert parse_reordering("neurons+channels").free(parse_pattern("neuron+head"), couplings) == []
    mixed = parse_pattern("attention=block:8x8,ffn=neuron")
    assert parse_reordering("neurons").free(mixed, couplings) == []
    assert {free.rows for free in parse_reordering("neurons+channels").free(mixed, couplings)} == {
        ("v.weight",),
        ("q.weight", "k.weight"),
    }


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    order = permutation(scattered(), Block(8, 8))
    order.save(tmp_path / "permutation.safetensors")
    again = Permutation.load(tmp_path / "permutation.safetensors")
    assert again.sha256() == order.sha256()
    weights = scattered(1)
    assert all(torch.equal(again.apply(weights)[name], value) for name, value in order.apply(weights).items())


@pytest.mark.parametrize("text", ["", "neurons", "neurons+channels"])
def test_what_may_be_reordered_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_reordering(text)) == text
    assert bool(parse_reordering(text)) == bool(text)

"""Whole heads and neurons, and patterns by kind of layer: exact numbers of units, and models that shrink by them."""

import itertools
from typing import Any

import pytest
import torch

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Coupling, Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.pruning.allocation import Allocation, Global, Uniform
from vlcompress.pruning.criterion import Magnitude, Random
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.mixture import CoupledUnits, Mixture, Units, members
from vlcompress.pruning.pattern import Block, Unstructured
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.recipe import Recipe
from vlcompress.sparse.compile import compile_model, scores
from vlcompress.sparse.timing import Effort

FAMILY = LxmertFamily()
CONFIG = FAMILY.config("tiny", vocab_size=50, feature_dim=16)


@pytest.fixture(scope="module")
def model() -> Any:
    """Return a tiny LXMERT with shared cross-attention and biases that are not zero."""
    made = FAMILY.build(CONFIG, Head("answers", ("a", "b", "c")), seed=0).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return made


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: model.get_parameter(name).detach() for name in FAMILY.prunable(model, "bert-tickets").names}


def pruned(
    model: Any, text: str, sparsity: float, masks: Masks | None = None, allocation: Allocation | None = None
) -> Masks:
    weights = weights_of(model)
    return prune(
        weights,
        masks or Masks.keep_all(weights),
        sparsity,
        pattern=parse_pattern(text),
        criterion=Magnitude(),
        allocation=allocation or Global(),
        couplings=FAMILY.couplings(model),
    )


def dead_units(model: Any, masks: Masks, kind: str) -> int:
    """Count the units that are gone as a whole, and check that none is gone in part."""
    gone = 0
    for coupling in FAMILY.couplings(model):
        if coupling.kind == kind:
            rows = [masks[name].view(coupling.units, -1) for name in coupling.producers]
            columns = masks[coupling.consumer].T.reshape(coupling.units, -1)
            kept = torch.cat([*rows, columns], dim=1).float().mean(dim=1)
            assert set(kept.tolist()) <= {0.0, 1.0}
            gone += int((kept == 0).sum())
    return gone


def test_names_are_read_and_written_back() -> None:
    head, neuron = Units("head"), Units("neuron")
    assert parse_pattern("head") == Mixture((("attention", head),))
    assert parse_pattern("neuron+head") == parse_pattern("head+neuron")
    layer, both = Units("head", single=False, whole=True), Units("neuron", whole=True)
    assert parse_pattern("attention=layer,ffn=neuron+layer") == Mixture((("attention", layer), ("ffn", both)))
    for text in ("layer", "neuron+layer", "neuron+head+layer", "attention=layer", "attention=layer,ffn=neuron"):
        assert str(parse_pattern(text)) == text
    mixed = parse_pattern("ffn=block:192x16,attention=head")
    assert mixed == Mixture((("ffn", Block(192, 16)), ("attention", head)))
    assert parse_pattern("attention=unstructured,ffn=neuron") == Mixture(
        (("attention", Unstructured()), ("ffn", neuron))
    )
    assert parse_pattern(str(mixed)) == mixed


@pytest.mark.parametrize(
    "text", ["attention=neuron", "ffn=head", "attention=", "attention=head,attention=head", "pooler=head", "head+head"]
)
def test_unknown_mixtures_name_what_is_allowed(text: str) -> None:
    with pytest.raises(
        VlcompressError, match=rf"unknown pattern '{text}'.*'neuron\+head'".replace("+head'.", r"\+head'.")
    ):
        parse_pattern(text)


@pytest.mark.parametrize("allocation", [Global(), Uniform()], ids=["global", "uniform"])
def test_exactly_the_asked_number_of_whole_units_goes_in_each_kind(model: Any, allocation: Allocation) -> None:
    masks = pruned(model, "neuron+head", 0.5, allocation=allocation)
    weights, couplings = weights_of(model), FAMILY.couplings(model)
    covered = sum(weights[name].numel() for kind in ("attention", "ffn") for name in members(kind, couplings, weights))
    share = 0.5 * masks.total / covered  # the pooler stays, so the others lose a little more
    for kind in ("head", "neuron"):
        units = sum(coupling.units for coupling in couplings if coupling.kind == kind)
        rounding = 1 if allocation == Global() else len(couplings)
        assert abs(dead_units(model, masks, kind) - share * units) <= rounding
    assert masks.sparsity == pytest.approx(0.5, abs=0.03)
    assert masks["lxmert.pooler.dense.weight"].all()


def test_what_is_gone_stays_gone_and_random_is_another_choice(model: Any) -> None:
    first = pruned(model, "neuron+head", 0.3)
    second = pruned(model, "neuron+head", 0.6, first)
    assert all(not (second[name] & ~first[name]).any() for name in first)
    weights = weights_of(model)
    by_chance = prune(
        weights, Masks.keep_all(weights), 0.3, pattern=parse_pattern("neuron+head"), criterion=Random(1),
        allocation=Global(), couplings=FAMILY.couplings(model),
    )  # fmt: skip
    assert by_chance.kept == first.kept
    assert by_chance.sha256() != first.sha256()


def test_the_weakest_unit_over_all_its_weights_goes_first_and_ties_go_by_index(model: Any) -> None:
    weights = {name: torch.ones_like(weight) for name, weight in weights_of(model).items()}
    couplings = [coupling for coupling in FAMILY.couplings(model) if coupling.kind == "neuron"]
    weak = couplings[1]
    weights[weak.consumer][:, 5] = 0.1  # the consumer's column counts like the producer's row
    masks = prune(
        weights, Masks.keep_all(weights), 0.02, pattern=parse_pattern("neuron"), criterion=Magnitude(),
        allocation=Global(), couplings=couplings,
    )  # fmt: skip
    assert not masks[weak.consumer][:, 5].any()
    assert not masks[weak.producers[0]][5].any()
    first = masks[couplings[0].consumer]
    gone = int((~first).all(dim=0).sum())
    assert gone > 1
    assert not first[:, :gone].any()  # of equals, the first ones


def test_a_mixture_prunes_each_kind_in_its_own_way(model: Any) -> None:
    masks = pruned(model, "attention=block:8x8,ffn=neuron", 0.4)
    assert dead_units(model, masks, "neuron") > 0
    tiles = masks["lxmert.encoder.layer.0.attention.self.query.weight"].view(4, 8, 4, 8).float().mean(dim=(1, 3))
    assert set(tiles.flatten().tolist()) <= {0.0, 1.0}
    assert masks.sparsity == pytest.approx(0.4, abs=0.01)


def test_sparsity_out_of_reach_and_blocks_that_do_not_divide_are_refused_beforehand(model: Any) -> None:
    shapes, couplings = {name: weight.shape for name, weight in weights_of(model).items()}, FAMILY.couplings(model)
    heads, blocks = parse_pattern("head"), parse_pattern("attention=block:5x5,ffn=neuron")
    with pytest.raises(
        VlcompressError, match=r"pattern 'head' covers 5\d\.\d % of the prunable weights: sparsity 0\.9"
    ):
        heads.check(shapes, couplings, 0.9)
    with pytest.raises(VlcompressError, match="'block:5x5' does not divide"):
        blocks.check(shapes, couplings, 0.3)
    with pytest.raises(VlcompressError, match=r"covers 0\.0 %"):
        heads.check(shapes, [], 0.1)


@pytest.mark.parametrize("text", ["ffn=2:4", "attention=head,ffn=2:4", "attention=1:4,ffn=2:4"])
def test_n_of_m_in_a_mixture_is_exact_at_its_reach(model: Any, text: str) -> None:
    mixture = parse_pattern(text)
    weights, couplings = weights_of(model), FAMILY.couplings(model)
    reach = mixture.reach_in({name: weight.numel() for name, weight in weights.items()}, couplings)
    masks = pruned(model, text, float(f"{reach:.6f}"), pruned(model, text, reach / 2))
    for name in members("ffn", couplings, weights):
        assert (masks[name].view(-1, 4).sum(dim=1) == 2).all()
    with pytest.raises(VlcompressError, match=rf"prunes at most 50 % of them: .*give sparsity {reach:.6f} or less"):
        pruned(model, text, reach + 0.01)


def test_whole_layers_go_by_their_mean_square_and_stay_gone(model: Any) -> None:
    couplings = FAMILY.couplings(model)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    first = pruned(model, "layer", 0.3)
    second = pruned(model, "layer", 0.6, first)
    for kind, masks in itertools.product(("head", "neuron"), (first, second)):
        of_kind = [one for one in couplings if one.kind == kind]
        gone = {one.consumer for one in of_kind if not masks[one.consumer].any()}
        assert all(masks[name].all() for one in of_kind if one.consumer not in gone for name in one.producers)
        sizes = {one.consumer: _mean_square(weights, one) for one in of_kind}
        assert gone == set(sorted(sizes, key=sizes.__getitem__)[: len(gone)])
    assert not any((second[name] & ~first[name]).any() for name in first)
    with pytest.raises(VlcompressError, match="without a target: by sparsity alone a layer goes with its last head"):
        Recipe().override(pruning={"pattern": "neuron+head+layer"}, training={"steps": 2})
    with pytest.raises(VlcompressError, match="whole layers compete with each other"):
        Recipe().override(pruning={"pattern": "layer", "allocation": "uniform"}, training={"steps": 2})


def _mean_square(weights: Any, coupling: Coupling) -> float:
    values = [weights[name].reshape(-1) for name in (*coupling.producers, coupling.consumer)]
    return float(torch.cat(values).double().square().mean())


def test_compile_removes_exactly_what_was_pruned_shared_cross_attention_included(model: Any) -> None:
    masks = pruned(model, "neuron+head", 0.6)
    with torch.no_grad():
        masks.apply(model)
    inputs = FAMILY.example_inputs(CONFIG, batch=2, text=6, regions=5, seed=1)
    compiled, plan = compile_model(FAMILY, model, masks, (1, 1), inputs=inputs, effort=Effort(1, 0.0, 0))
    shared = next(units for units in plan.kept if "visual_attention" in units.consumer)
    assert shared.kind == "head"
    for kind in ("head", "neuron"):
        removed = sum(units.units - len(units.kept) for units in plan.kept if units.kind == kind)
        assert removed == dead_units(model, masks, kind)
    left = sum(layer.shape[0] * layer.shape[1] for layer in plan.layers)
    assert left < 0.5 * masks.total
    torch.testing.assert_close(scores(FAMILY, compiled, inputs), scores(FAMILY, model, inputs), atol=1e-5, rtol=1e-5)


def test_units_of_layers_of_other_widths_compare_by_their_mean_square() -> None:
    """Two neurons and four, all of whose weights are 3 in size: none is worth more than another."""
    for units in (2, 4):
        coupling = Coupling("neuron", ("up",), "down", units=units, unit_size=1, constant_from="up")
        weights = {"up": torch.full((units, 5), 3.0), "down": torch.full((5, units), -3.0)}
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        source = CoupledUnits(coupling, ("up", "down")).source(weights, masks, Magnitude())
        assert source.scores(0, units).tolist() == pytest.approx([3.0] * units)

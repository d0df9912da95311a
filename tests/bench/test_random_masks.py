import pytest
import torch

from vlcompress.bench.random_masks import POLICY, masked, random_masks, read_pattern
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily

FAMILY = LxmertFamily()
CONFIG = FAMILY.config("tiny", vocab_size=50, feature_dim=8)
MODEL = FAMILY.build(CONFIG, Head("answers", ("yes", "no")), seed=0).eval()


def test_patterns_by_their_short_names() -> None:
    assert read_pattern("64x32") == read_pattern("block:64x32") == "block:64x32"
    assert [read_pattern(text) for text in ("neuron+head", "unstructured")] == ["neuron+head", "unstructured"]
    with pytest.raises(VlcompressError, match="unknown pattern '64by64': allowed are"):
        read_pattern("64by64")


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_every_weight_loses_its_share_of_blocks(sparsity: float) -> None:
    masks = random_masks(FAMILY, MODEL, "block:8x4", sparsity)
    assert set(masks) == set(FAMILY.prunable(MODEL, POLICY).names)
    for mask in masks.values():
        assert mask.float().mean() == 1 - sparsity
        blocks = mask.unflatten(0, (-1, 8)).unflatten(2, (-1, 4)).float().mean(dim=(1, 3))
        assert set(blocks.unique().tolist()) == {0.0, 1.0}


def test_n_of_every_m_weights_stay_and_no_other_share_is_possible() -> None:
    for mask in random_masks(FAMILY, MODEL, read_pattern("2:4"), 0.5).values():
        assert (mask.view(-1, 4).sum(dim=1) == 2).all()
        assert len(mask.view(-1, 4).unique(dim=0)) == 6  # every way of keeping two of four
    with pytest.raises(VlcompressError, match=r"'2:4': it is 50 % sparse and nothing else; give --sparsity 0\.5"):
        random_masks(FAMILY, MODEL, "2:4", 0.7)
    with pytest.raises(VlcompressError, match="'1:3' does not divide weight"):
        random_masks(FAMILY, MODEL, "1:3", 0.666667)


def test_units_go_from_both_sides_and_one_stays() -> None:
    masks = random_masks(FAMILY, MODEL, "neuron+head", 0.99)
    for coupling in FAMILY.couplings(MODEL):
        kept = masks[coupling.consumer].any(dim=0)
        assert int(kept.sum()) == coupling.unit_size
        for name in coupling.producers:
            assert torch.equal(masks[name].any(dim=1), kept)


def test_heads_alone_leave_neurons_alone() -> None:
    masks = random_masks(FAMILY, MODEL, "head", 0.5)
    for coupling in FAMILY.couplings(MODEL):
        assert bool(masks[coupling.consumer].all()) == (coupling.kind == "neuron")


def test_whole_layers_go_and_one_of_each_kind_stays() -> None:
    masks = random_masks(FAMILY, MODEL, "layer", 0.99)
    stay = [one.kind for one in FAMILY.couplings(MODEL) if masks[one.consumer].any()]
    assert sorted(stay) == ["head", "neuron"]
    assert {float(mask.float().mean()) for name, mask in masks.items() if "pooler" not in name} == {0.0, 1.0}


def test_the_weights_come_back() -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    masks = random_masks(FAMILY, MODEL, "block:8x4", 0.5)
    with masked(MODEL, masks):
        for name, mask in masks.items():
            weight = MODEL.get_parameter(name)
            assert (weight[~mask] == 0).all()
            assert not torch.signbit(weight[~mask]).any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())


def test_a_share_that_is_none() -> None:
    with pytest.raises(VlcompressError, match="sparsity 1 is out of range"):
        random_masks(FAMILY, MODEL, "block:8x4", 1.0)
    with pytest.raises(VlcompressError, match="does not divide weight"):
        random_masks(FAMILY, MODEL, "block:7x4", 0.5)

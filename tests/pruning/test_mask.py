from pathlib import Path

import pytest
import torch
from torch import nn

from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks


def some() -> Masks:
    rng = torch.Generator().manual_seed(0)
    return Masks({"z.weight": torch.rand(5, 7, generator=rng) > 0.6, "a.weight": torch.rand(3, 3, generator=rng) > 0.6})


def test_round_trip_keeps_bits_order_and_hash(tmp_path: Path) -> None:
    masks = some()
    masks.save(tmp_path / "mask.safetensors")
    again = Masks.load(tmp_path / "mask.safetensors")
    assert list(again) == ["z.weight", "a.weight"]
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    assert masks.sha256() == again.sha256()


def test_one_bit_a_weight_at_rest(tmp_path: Path) -> None:
    masks = Masks({"w": torch.ones(1024, 1024, dtype=torch.bool)})
    masks.save(tmp_path / "mask.safetensors")
    assert (tmp_path / "mask.safetensors").stat().st_size < 1024 * 1024 / 8 + 1024


def test_counts() -> None:
    masks = Masks({"w": torch.tensor([[True, False], [False, False]])})
    assert (masks.total, masks.kept, masks.sparsity) == (4, 1, 0.75)
    assert masks.layer_sparsity() == {"w": 0.75}


def test_apply_zeroes_exactly_the_pruned_weights() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    Masks({"weight": torch.tensor([[True, False], [False, True]])}).apply(model)
    assert model.weight.detach().tolist() == (before * torch.eye(2)).tolist()


def test_bad_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"mask of 'w' is torch.float32"):
        Masks({"w": torch.ones(2)})
    with pytest.raises(VlcompressError, match="does not fit this model"):
        Masks({"weight": torch.ones(3, 3, dtype=torch.bool)}).apply(nn.Linear(2, 2))
    some().save(tmp_path / "mask.safetensors")
    content = (tmp_path / "mask.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-9])
    with pytest.raises(VlcompressError, match="damaged or cut"):
        Masks.load(tmp_path / "cut.safetensors")


def test_the_hash_sees_names_shapes_and_bits() -> None:
    bits = torch.arange(16) % 3 == 0
    changed = bits.clone()
    changed[-1] ^= True
    others = ({"v": bits.view(4, 4)}, {"w": bits.view(2, 8)}, {"w": changed.view(4, 4)})
    hashes = {Masks(one).sha256() for one in ({"w": bits.view(4, 4)}, *others)}
    assert len(hashes) == 4

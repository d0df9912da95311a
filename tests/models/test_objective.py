"""What can be pre-trained, and with which settings."""

import pytest

from vlcompress.errors import VlcompressError
from vlcompress.models.base import pretraining_of
from vlcompress.models.registry import FAMILIES, family_named


def test_only_families_that_say_so_can_be_pretrained() -> None:
    assert {name for name, family in FAMILIES.items() if family.pretraining} == {
        name for name, family in FAMILIES.items() if "pretraining" in family.heads
    }
    with pytest.raises(VlcompressError, match="resnet has no pre-training here"):
        pretraining_of(family_named("resnet"))


def test_settings_are_the_familys_own_with_what_is_given_over_them() -> None:
    spec = pretraining_of(family_named("uniter"))
    assert spec.settings_with({"word_rate": 0.3, "region_rate": None})["word_rate"] == 0.3
    assert spec.settings_with({})["region_rate"] == 0.15
    with pytest.raises(VlcompressError, match="unknown setting of this family's pre-training 'visual_weight': allowed"):
        spec.settings_with({"visual_weight": 1.0})

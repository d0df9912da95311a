"""What can be pre-trained, and with which settings."""

import pytest

from vlcompress.errors import VlcompressError
from vlcompress.models.registry import FAMILIES
from vlcompress.tasks.pretraining_registry import PRETRAINING, pretrainer_of, settings_of


def test_only_families_that_say_so_can_be_pretrained() -> None:
    assert set(PRETRAINING) <= {name for name, family in FAMILIES.items() if "pretraining" in family.heads}


def test_settings_are_the_familys_own_with_what_is_given_over_them() -> None:
    assert settings_of("uniter", {"word_rate": 0.3, "region_rate": None})["word_rate"] == 0.3
    assert settings_of("uniter", {})["region_rate"] == 0.15
    with pytest.raises(VlcompressError, match="unknown setting of uniter's pre-training 'visual_weight': allowed are"):
        settings_of("uniter", {"visual_weight": 1.0})
    with pytest.raises(VlcompressError, match="unknown model to pre-train 'vilbert': allowed are"):
        pretrainer_of("vilbert")

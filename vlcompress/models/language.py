"""Starting a family from a language model: the BERT-init control of Gan et al. (AAAI 2022, Table 1, row 6).

What reads words takes the language model's weights, all else stays fresh. The published sizes start from BERT, as the
official code of LXMERT and UNITER does before its pre-training.
"""

import re
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family, LoadReport

BERT = {
    ("lxmert", "base"): "google-bert/bert-base-uncased",
    ("uniter", "base"): "google-bert/bert-base-cased",
    ("uniter", "large"): "google-bert/bert-large-cased",
}
"""The language model of each published size, by its hub name; the vocabularies are those of the family's own."""


@runtime_checkable
class StartsFromLanguage(Protocol):
    """A family with a part that a BERT fits."""

    language_names: re.Pattern[str]
    """Names of the weights that `load_language` fills."""

    def load_language(self, model: nn.Module, checkpoint: str) -> LoadReport:
        """Load a BERT, in any form of `Family.load`, and leave the rest of the model as it is.

        Raises:
            VlcompressError: an unreadable file, missing or misshapen tensors, or weights that know images.
        """

    def word_states(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encode words without pictures.

        Args:
            model: of this family.
            inputs: input_ids and attention_mask int64 [B, T].

        Returns:
            float32 [B, T, H], from the weights that `load_language` fills.
        """


def language_part(family: Family) -> StartsFromLanguage:
    """Return the family as one that starts from a language model.

    Raises:
        VlcompressError: no language model fits it.
    """
    if not isinstance(family, StartsFromLanguage):
        raise VlcompressError(
            f"control 'language' starts from a language model, and {family.name} has no part that one fits: "
            "it is there for lxmert, uniter"
        )
    return family


def knows_images(checkpoint: str) -> VlcompressError:
    """Return the error for weights that are no language model's."""
    return VlcompressError(
        f"'{checkpoint}' has weights for images, so it is no language model: give a BERT (model.language)"
    )

"""Starting a family from a language model: the BERT-init control of Gan et al. (AAAI 2022, Table 1, row 6).

What reads words takes the language model's weights, all else stays fresh. The published sizes start from BERT, as the
official code of LXMERT and UNITER does before its pre-training.
"""

import re
from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family, LoadReport
from vlcompress.models.registry import FAMILIES


@runtime_checkable
class StartsFromLanguage(Protocol):
    """A family with a part that a BERT fits."""

    language_models: ClassVar[Mapping[str, str]]
    """The language model of each published size, by its hub name; the vocabularies are those of the family's own."""
    language_names: ClassVar[re.Pattern[str]]
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
    """Take the family as one that starts from a language model.

    Raises:
        VlcompressError: no language model fits it.
    """
    if not isinstance(family, StartsFromLanguage):
        names = ", ".join(name for name, one in FAMILIES.items() if isinstance(one(), StartsFromLanguage))
        raise VlcompressError(
            f"control 'language' starts from a language model, and {family.name} has no part that one fits: "
            f"it is there for {names}"
        )
    return family


def published_language_model(family: Family, size: str) -> str:
    """Name the language model that a size starts from; "" where there is none."""
    return family.language_models.get(size, "") if isinstance(family, StartsFromLanguage) else ""

"""What pre-training draws: words and regions to be predicted, what is shown in their place, and other images.

Shapes: B batch, T words.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError

NOTHING = -1
"""Label of a word that is not asked for."""
_TRIES = 1000  # draws of another image before the data are taken to hold one image only


def mlm_mask(candidates: Tensor, rate: float, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what is asked for (`rate` of the candidates), hidden (80 % of these) and replaced at random (10 %).

    Args:
        candidates: bool, any shape.
        rate: chance of each, 0 to 1.
        rng: the only source of chance.

    Returns:
        Three bool tensors of that shape; the remaining tenth of what is asked for is shown as it is.
    """
    draw = torch.rand(candidates.shape, generator=rng).masked_fill(~candidates, 1.0)
    asked = draw < rate
    hidden = draw < 0.8 * rate
    return asked, hidden, (draw < 0.9 * rate) & ~hidden


def places(asked_BT: Tensor) -> Tensor:
    """Find row and column of each true entry of a bool mask, int64 [n, 2].

    Batches hold them beside their masks: a GPU that has to find them makes the host wait for their number.
    """
    return asked_BT.nonzero()


def at(x: Tensor, places_N2: Tensor) -> Tensor:
    """Gather the rows [n, ...] of `x` [B, T, ...] at `places`."""
    rows_N, columns_N = places_N2.unbind(1)
    return x[rows_N, columns_N]


def masked_words(
    tokens_BT: Tensor,
    there_BT: Tensor,
    rate: float,
    vocabulary: WordPiece,
    rng: torch.Generator,
    *,
    at_least_one: bool = False,
    sure_BT: Tensor | None = None,
    first_noise: int = 0,
) -> tuple[Tensor, Tensor]:
    """Hide words for masked-word prediction.

    Args:
        tokens_BT: ids.
        there_BT: bool, False at padding.
        rate: chance that a word is to be predicted: of these 80 % become [MASK], 10 % a random word.
        vocabulary: of the ids.
        rng: the only source of chance.
        at_least_one: ask for a text's first word where none is drawn.
        sure_BT: bool, words that are asked for and hidden whatever is drawn.
        first_noise: the least id of a random word.

    Returns:
        What is shown [B, T], and the labels [B, T]: the id of a word that is asked for, `NOTHING` elsewhere.
    """
    word_BT = there_BT & (tokens_BT != vocabulary.cls_id) & (tokens_BT != vocabulary.sep_id)
    asked_BT, hidden_BT, random_BT = mlm_mask(word_BT, rate, rng)
    if sure_BT is not None:
        asked_BT, hidden_BT, random_BT = asked_BT | sure_BT, hidden_BT | sure_BT, random_BT & ~sure_BT
    if at_least_one:
        first_BT = ~asked_BT.any(dim=1, keepdim=True) & word_BT & (word_BT.cumsum(dim=1) == 1)
        asked_BT, hidden_BT = asked_BT | first_BT, hidden_BT | first_BT
    noise_BT = torch.randint(first_noise, vocabulary.vocab_size, tokens_BT.shape, generator=rng)
    shown_BT = tokens_BT.masked_fill(hidden_BT, vocabulary.mask_id).where(~random_BT, noise_BT)
    return shown_BT, tokens_BT.where(asked_BT, NOTHING)


class OfImage(Protocol):
    """An example that belongs to an image."""

    @property
    def img_id(self) -> str:
        """The image's name: an image never serves as its own mismatch."""


class Sentence(OfImage, Protocol):
    """A sentence about an image."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Token ids [t]: [CLS], word pieces, [SEP]; [PAD] may follow."""


class RegionSentence(Sentence, Protocol):
    """A sentence about an image of which there are regions."""

    @property
    def regions(self) -> Regions:
        """The image's regions."""


def other_image(examples: Sequence[OfImage], image: str, rng: torch.Generator) -> int:
    """Draw the index of an example of another image: an image never serves as its own mismatch.

    Raises:
        VlcompressError: there is only one image.
    """
    for _ in range(_TRIES):
        index = int(torch.randint(len(examples), (), generator=rng))
        if examples[index].img_id != image:
            return index
    raise VlcompressError(f"no other image than '{image}' found: image-text matching needs two images or more")

"""ViLT's pre-training (Kim, Son and Kim, ICML 2021, section 3.3): matching, word-patch alignment, masked whole words.

Rates, weights and the way words are drawn are those of the official code (dandelin/ViLT, ``modules/objectives.py`` and
``datasets/base_dataset.py``). Each step runs the model once over twice the batch: the sentences with hidden words
beside their own pictures, then the whole sentences, half of them beside another picture.

Shapes: B batch, T words, P patches.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.data.tokenizer import WordPiece
from vlcompress.models.base import Sample
from vlcompress.models.marginal import Asked, labelled
from vlcompress.models.masking import NOTHING, Sentence, at, other_image, places
from vlcompress.models.objective import ASKED, Batch, PretrainingSpec, weighed
from vlcompress.models.transport import transport_distance
from vlcompress.models.vilt.batches import collate
from vlcompress.models.vilt.model import MAX_WORDS, encode

LOSSES = ("words", "matched", "alignment")
"""The losses in the order in which they are reported."""

ALIGNMENT_WEIGHT = 0.1
"""Weight of the alignment loss beside the two others."""

Ids = NDArray[np.int64]


class Captioned(Sentence, Protocol):
    """A sentence and its picture."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture in the size that the model wants (`ViltFamily.pictures`), uint8 [height, width, 3]."""


class ViltPretraining:
    """Captions and their pictures as batches for the three losses.

    Args:
        examples: the captions; pixels are read when a batch asks for them.
        vocabulary: what their tokens are of.
        word_rate: share of a full-length sentence's pieces that is asked for.
        transport_weight: of the alignment loss beside the two others.
    """

    def __init__(
        self,
        examples: Sequence[Captioned],
        vocabulary: WordPiece,
        word_rate: float = 0.15,
        transport_weight: float = ALIGNMENT_WEIGHT,
    ) -> None:
        self.examples, self.vocabulary, self.transport_weight = examples, vocabulary, transport_weight
        self._budget = max(1, round(MAX_WORDS * word_rate))
        self._continues = np.array([token.startswith("##") for token in vocabulary.tokens])

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the double batch of these captions.

        Inputs: those of the family, first axis 2B. Targets: "words" int64 [B, T], the piece to predict or -1; "asked"
        int64 [n, 2], the places of those to predict; "matched" int64 [B], 1 where the sentence is beside its own
        picture (half of them, at random places).
        """
        matched_B = torch.zeros(len(indices), dtype=torch.int64)
        matched_B[torch.randperm(len(indices), generator=rng)[: len(indices) // 2]] = 1
        own = [self.examples[index] for index in indices]
        beside = [
            one if same else self.examples[other_image(self.examples, one.img_id, rng)]
            for one, same in zip(own, matched_B, strict=True)
        ]
        whole = [one.tokens[one.tokens != self.vocabulary.pad_id] for one in own]
        hidden = [self._hidden(ids, rng) for ids in whole]
        texts = [*(shown for shown, _ in hidden), *whole]
        pictures = [one.pixels for one in (*own, *beside)]
        samples = [Sample(ids, np.zeros_like(ids), (picture,)) for ids, picture in zip(texts, pictures, strict=True)]
        asked = [torch.from_numpy(asked) for _, asked in hidden]
        words_BT = torch.nn.utils.rnn.pad_sequence(asked, batch_first=True, padding_value=NOTHING)
        targets = {"words": words_BT, ASKED: places(words_BT != NOTHING), "matched": matched_B}
        return Batch(collate(samples), targets, views=2)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Add up the three losses, a scalar; those of a part as they count in its whole (`share`)."""
        return weighed(self.losses(model, batch), batch)

    def share(self, part: Batch) -> float:
        """See `vlcompress.models.objective.Divisible`: each of the three means is over something else, weighed so."""
        return 1.0

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute each loss, a scalar, weighted as in the sum, by the names and in the order of `LOSSES`.

        Args:
            model: a ViLT with the "pretraining" head.
            batch: as `batch` makes it.
        """
        parts: Any = model
        encoded, asked, matched_B = encode(model, batch.inputs), batch.targets[ASKED], batch.targets["matched"]
        size = len(matched_B)
        words_N = at(batch.targets["words"], asked)
        # Scoring the vocabulary at the asked words only: a sixth of the work, and the same mean over them.
        word_scores = parts.mlm_score(at(encoded.text[:size], asked))
        patches_BP = encoded.image_mask[size:].clone()
        patches_BP[:, 0] = False  # the image's [CLS] stands for no patch
        distance_B = transport_distance(
            encoded.text[size:], encoded.image[size:], _inner_words(batch.inputs["attention_mask"][size:]), patches_BP
        )
        return {
            "words": cross_entropy(word_scores, words_N, reduction="sum") / max(1, len(words_N)),
            "matched": cross_entropy(parts.itm_score["fc"](encoded.pooled[size:]), matched_B),
            "alignment": self.transport_weight * (distance_B * (2 * matched_B - 1)).mean(),
        }

    def asked(self, targets: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Asked]:
        """Say what the losses ask for; one answer to all aligns every word with every patch."""
        names = ("words", "matched")
        return {name: labelled(targets[name].flatten(), NOTHING) for name in names}

    def _hidden(self, ids_T: Ids, rng: torch.Generator) -> tuple[Ids, Ids]:
        """Hide some whole words of a sentence, and the pieces to predict there (-1 elsewhere)."""
        asked_T = self._drawn(ids_T, rng)
        fate_T = torch.rand(len(ids_T), generator=rng).numpy()
        noise_T = torch.randint(self.vocabulary.vocab_size, (len(ids_T),), generator=rng).numpy()
        shown_T = np.where(asked_T & (fate_T < 0.8), self.vocabulary.mask_id, ids_T)
        shown_T = np.where(asked_T & (fate_T >= 0.9), noise_T, shown_T)
        return shown_T, np.where(asked_T, ids_T, NOTHING)

    def _drawn(self, ids_T: Ids, rng: torch.Generator) -> NDArray[np.bool_]:
        """Draw whole words until the budget of pieces is spent; a word that does not fit in is passed over.

        The padding up to `MAX_WORDS` is drawn too, and then not asked for: in a short sentence fewer words are hidden,
        sometimes none.
        """
        starts = [at for at in range(1, len(ids_T) - 1) if at == 1 or not self._continues[ids_T[at]]]
        words = [range(a, b) for a, b in zip(starts, [*starts[1:], len(ids_T) - 1], strict=True)]
        words += [range(at, at + 1) for at in range(len(ids_T), MAX_WORDS)]
        asked, left = np.zeros(MAX_WORDS, np.bool_), self._budget
        for index in torch.randperm(len(words), generator=rng).tolist():
            if len(words[index]) <= left:
                asked[list(words[index])] = True
                left -= len(words[index])
        return asked[: len(ids_T)]


def _inner_words(mask_BT: Tensor) -> Tensor:
    """Mark which tokens are words: neither padding nor [CLS], the first, nor [SEP], the last."""
    places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (places_T > 0) & (places_T < mask_BT.sum(1, keepdim=True) - 1)


PRETRAINING = PretrainingSpec(
    ViltPretraining,
    {"word_rate": 0.15, "transport_weight": ALIGNMENT_WEIGHT},
    "adamw",
    reads={"word head": "untied"},  # it was tied once: such trainings are others
)

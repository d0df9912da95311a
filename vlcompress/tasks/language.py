"""Masked words without pictures: what makes a language model of a family's own text encoder.

Shapes: B batch, T words, H hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.data.tokenizer import WordPiece
from vlcompress.models.language import StartsFromLanguage
from vlcompress.models.masking import NOTHING, at, masked_words, places
from vlcompress.models.objective import ASKED, Batch, Objective, asked_share

WORD_RATE = 0.15
"""Chance that a word is to be predicted (BERT's)."""


@dataclass(frozen=True)
class WordsAlone:
    """Masked-word prediction on the texts of a task; its pictures and its answers are not looked at.

    Attributes:
        family: whose text encoder learns.
        task: whose texts are read.
        vocabulary: of the tokenizer that made the tokens.
        unknown_id: id of [UNK], which stands for tokens that a task adds to the vocabulary (VCR's people).
    """

    family: StartsFromLanguage
    task: Objective
    vocabulary: WordPiece
    unknown_id: int

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.task)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch; masks are drawn from `rng`, at least one word a text.

        Returns:
            inputs: input_ids and attention_mask int64 [B, T]. targets: words int64 [B, T] (-1: not asked for), and
            asked int64 [n, 2], the places of those asked for.
        """
        ids, inputs = self.vocabulary, self.task.batch(indices, rng).inputs
        tokens_BT, there_BT = inputs["input_ids"], inputs["attention_mask"]
        tokens_BT = tokens_BT.where(tokens_BT < ids.vocab_size, self.unknown_id)
        shown_BT, words_BT = masked_words(tokens_BT, there_BT.bool(), WORD_RATE, ids, rng, at_least_one=True)
        targets = {"words": words_BT, ASKED: places(words_BT != NOTHING)}
        return Batch({"input_ids": shown_BT, "attention_mask": there_BT}, targets)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the mean cross-entropy of the asked words, a scalar.

        Args:
            model: of the family, with the "pretraining" head.
            batch: as `batch` makes it.
        """
        parts: Any = model
        asked = batch.targets[ASKED]
        states_BTH = self.family.word_states(model, batch.inputs)
        return cross_entropy(parts.cls.predictions(at(states_BTH, asked)), at(batch.targets["words"], asked))

    def share(self, part: Batch) -> float:
        """See `vlcompress.models.objective.Divisible`."""
        return asked_share(part)

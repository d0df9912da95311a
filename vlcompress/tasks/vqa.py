"""Visual question answering: score a closed list of answers; the metric is VQA v2's soft score of the best one."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.data.vqa_folder import VqaFolder
from vlcompress.models.base import Family, Head, Sample
from vlcompress.tasks.base import Batch

MAX_WORDS = 20
"""Longest question in word pieces, [CLS] and [SEP] included (LXMERT's max_seq_length)."""

CACHED_BYTES = 1 << 30
"""Region features kept in memory once read; a larger data set is read from the disk again."""


class VqaTask:
    """Questions of some splits as batches, with LXMERT's loss and score.

    Args:
        folder: the opened splits.
        vocabulary: the model's vocabulary; refused if it does not cover the questions.
        family: gives the model's scores for a batch.
    """

    metric = "VQA soft score"

    def __init__(self, folder: VqaFolder, vocabulary: WordPiece, family: Family) -> None:
        sentences = [question.sentence for question in folder.questions]
        vocabulary.check_covers(sentences)
        self.folder = folder
        self.head = Head("answers", folder.answers.labels)
        self.family = family
        self._words_NT = vocabulary.encode(sentences, MAX_WORDS)
        self._pad = vocabulary.pad_id
        self._targets_NA = folder.answers.targets(folder.questions)
        self._regions: dict[str, Regions] = {}
        self._cached = 0

    def __len__(self) -> int:
        return len(self.folder.questions)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these questions, words padded to the longest one, regions to the most.

        Inputs: those of `Family.collate`. Targets: "answers" float32 [B, labels], soft scores in 0..1. `rng` is not
        used: VQA trains without chance.
        """
        chosen = list(indices)
        samples = [self._sample(index) for index in chosen]
        inputs = self.family.collate(samples)
        return Batch(inputs, {"answers": torch.from_numpy(self._targets_NA[chosen])})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give binary cross entropy with the soft scores, summed over answers and averaged over B (airsplay/lxmert)."""
        answers_BA = batch.targets["answers"]
        logits_BA = self.family.logits(model, batch.inputs)
        return binary_cross_entropy_with_logits(logits_BA, answers_BA) * answers_BA.shape[1]

    def scores(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give the soft score of each question's best answer (float32 [B]) and that answer's index (int64 [B])."""
        best_B = self.family.logits(model, batch.inputs).argmax(dim=1)
        return batch.targets["answers"].gather(1, best_B[:, None])[:, 0], best_B

    def _sample(self, index: int) -> Sample:
        words_T = self._words_NT[index]
        words_T = words_T[words_T != self._pad]
        return Sample(words_T, np.zeros_like(words_T), (self._read(self.folder.questions[index].img_id),))

    def _read(self, img_id: str) -> Regions:
        regions = self._regions.get(img_id)
        if regions is None:
            regions = self.folder.regions(img_id)
            if self._cached < CACHED_BYTES:
                self._regions[img_id] = regions
                self._cached += regions.features.nbytes
        return regions

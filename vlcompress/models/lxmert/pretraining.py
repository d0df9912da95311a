"""LXMERT's pre-training (Tan and Bansal, EMNLP 2019, section 3) as one objective: the sum of six losses.

Masked words, masked region features, object and attribute of every region, whether sentence and picture belong
together, and the answer where the sentence is a question. Rates, weights and reductions are those of the official
code (airsplay/lxmert ``pretrain/lxmert_pretrain.py`` and ``lxrt/modeling.py``).

Shapes: B batch, T tokens, R regions, F feature width, H hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.lxmert.model import encode
from vlcompress.models.marginal import Asked, labelled
from vlcompress.models.masking import NOTHING, RegionSentence, at, masked_words, mlm_mask, other_image, places
from vlcompress.models.objective import ASKED, Batch, PretrainingSpec, weighed

LOSSES = ("words", "matched", "objects", "attributes", "features", "answers")
"""The losses in the order in which the official code reports them."""

VISUAL_WEIGHT = 1 / 0.15
"""Of the official code: the region losses are means over all regions, of which features count in 15 % alone."""


class Example(RegionSentence, Protocol):
    """A sentence about an image, which may be a question."""

    @property
    def answer(self) -> int:
        """Row of the answer in the answer head; -1 where the sentence is no question or its answer is unknown."""


@dataclass(frozen=True)
class PretrainingObjective:
    """LXMERT's six losses over examples (see `vlcompress.models.objective.Objective`).

    Attributes:
        examples: sentences with their images.
        vocabulary: of the tokenizer that made the tokens.
        word_rate: chance that a word is to be predicted: of these 80 % become [MASK], 10 % a random word.
        region_rate: chance that a region's features are: of these 80 % become 0, 10 % those of a random region.
        mismatch_rate: chance that the sentence is replaced by one of another image.
        visual_weight: of the three region losses in the sum.
    """

    examples: Sequence[Example]
    vocabulary: WordPiece
    word_rate: float = 0.15
    region_rate: float = 0.15
    mismatch_rate: float = 0.5
    visual_weight: float = VISUAL_WEIGHT

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch; mismatches and masks are drawn from `rng` alone.

        Returns:
            inputs: those of LXMERT, T the longest sentence of the batch.
            targets: words int64 [B, T] (-1: not asked for), asked int64 [n, 2], the places of those asked for; matched
                int64 [B] (1 = the sentence is the image's own); objects, attributes int64 and objects_conf,
                attributes_conf float32 [B, R]; features float32 [B, R, F] before masking, features_asked float32
                [B, R] (1 = to be predicted); answers int64 [B] (-1: none).

        Raises:
            VlcompressError: images with different numbers of regions, data of a single image.
        """
        matched_B = torch.rand(len(indices), generator=rng) >= self.mismatch_rate
        spoken = [
            index if matched else other_image(self.examples, self.examples[index].img_id, rng)
            for index, matched in zip(indices, matched_B.tolist(), strict=True)
        ]
        inputs, words_BT = self._words([self.examples[index].tokens for index in spoken], rng)
        regions, asked = self._regions([self.examples[index].regions for index in indices], rng)
        answers_B = torch.tensor([self.examples[index].answer for index in indices])
        targets = {"words": words_BT, ASKED: places(words_BT != NOTHING), "matched": matched_B.long()}
        return Batch(inputs | regions, targets | {"answers": answers_B.where(matched_B, NOTHING)} | asked)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Add up the six losses, a scalar; those of a part as they count in its whole (`share`)."""
        losses = self.losses(model, batch)
        if batch.whole is None:
            return weighed(losses, batch)
        known, all_known = ((one.targets["answers"] != NOTHING).sum() for one in (batch, batch.whole))
        return weighed(losses, batch, answers=known / max(1, int(all_known)))

    def share(self, part: Batch) -> float:
        """See `vlcompress.models.objective.Divisible`: each of the six means is over something else, and weighed so."""
        return 1.0

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute each loss, a scalar, weighted as in the sum, by the names and in the order of `LOSSES`.

        Args:
            model: an LXMERT with the "pretraining" head.
            batch: as `batch` makes it.
        """
        encoded = encode(model, batch.inputs)
        parts: Any = model
        targets = batch.targets
        # Scoring the vocabulary at the asked words only: a sixth of the work, and the same mean over them.
        word_scores = parts.cls.predictions(at(encoded.language, targets[ASKED]))
        return {
            "words": _mean_of_labelled(word_scores, at(targets["words"], targets[ASKED])),
            "matched": cross_entropy(parts.cls.seq_relationship(encoded.pooled), targets["matched"]),
            **_region_losses(parts.obj_predict_head(encoded.vision), targets, self.visual_weight),
            "answers": _mean_of_labelled(parts.answer_head(encoded.pooled), targets["answers"]),
        }

    def asked(self, targets: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Asked]:
        """Say what each loss asks for, by the names of `LOSSES`."""
        shares = {
            "objects": targets["objects_conf"],
            "attributes": targets["attributes_conf"],
            "features": targets["features_asked"],
        }
        share_of = {name: (share.flatten() * self.visual_weight / share.numel()) for name, share in shares.items()}
        return {
            "words": labelled(targets["words"].flatten(), NOTHING),
            "matched": labelled(targets["matched"], NOTHING),
            "objects": Asked(targets["objects"].flatten(), share_of["objects"]),
            "attributes": Asked(targets["attributes"].flatten(), share_of["attributes"]),
            "features": Asked(targets["features"].flatten(0, 1), share_of["features"], _feature_error),
            "answers": labelled(targets["answers"], NOTHING),
        }

    def _words(self, sentences: Sequence[NDArray[np.int64]], rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        pad = self.vocabulary.pad_id
        tokens_BT = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(tokens[tokens != pad]) for tokens in sentences], batch_first=True, padding_value=pad
        )
        there_BT = tokens_BT != pad
        shown_BT, words_BT = masked_words(tokens_BT, there_BT, self.word_rate, self.vocabulary, rng)
        return {"input_ids": shown_BT, "attention_mask": there_BT.long()}, words_BT

    def _regions(self, images: Sequence[Regions], rng: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features_BRF = _stack([image.features for image in images])
        every_BR = torch.ones(features_BRF.shape[:2], dtype=torch.bool)
        asked_BR, hidden_BR, random_BR = mlm_mask(every_BR, self.region_rate, rng)
        shown_BRF = features_BRF.masked_fill(hidden_BR[..., None], 0.0)
        shown_BRF[random_BR] = self._random_features(int(random_BR.sum()), features_BRF.shape[-1], rng)
        boxes_BR4 = _stack([image.normalized_boxes for image in images])
        targets = {
            "objects": _stack([image.objects_id for image in images]),
            "objects_conf": _stack([image.objects_conf for image in images]),
            "attributes": _stack([image.attrs_id for image in images]),
            "attributes_conf": _stack([image.attrs_conf for image in images]),
            "features": features_BRF,
            "features_asked": asked_BR.to(features_BRF.dtype),
        }
        return {"visual_feats": shown_BRF, "visual_pos": boxes_BR4}, targets

    def _random_features(self, count: int, width: int, rng: torch.Generator) -> Tensor:
        """Draw regions [count, F] from all images alike."""
        result = torch.empty(count, width)
        for row, index in enumerate(torch.randint(len(self.examples), (count,), generator=rng).tolist()):
            features_RF = self.examples[index].regions.features
            region = int(torch.randint(len(features_RF), (), generator=rng))
            result[row] = torch.tensor(features_RF[region])  # a copy: the array may be read-only
        return result


def _stack(arrays: Sequence[NDArray[Any]]) -> Tensor:
    counts = sorted({len(array) for array in arrays})
    if len(counts) > 1:
        raise VlcompressError(
            f"images with {counts[0]} and with {counts[-1]} regions: LXMERT takes the same number for every image; "
            "extract the features with a fixed number of boxes"
        )
    return torch.from_numpy(np.stack(arrays))


def _mean_of_labelled(scores: Tensor, labels: Tensor) -> Tensor:
    """Average the cross-entropy of the rows that have a label, 0 where none has (torch's own mean is NaN there)."""
    total = cross_entropy(scores, labels, ignore_index=NOTHING, reduction="sum")
    return total / (labels != NOTHING).sum().clamp(min=1)


def _region_losses(scores: Mapping[str, Tensor], targets: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Compute the three losses over regions; objects and attributes count by the detector's confidence in them."""
    errors = {
        "objects": _each(scores["obj"], targets["objects"]) * targets["objects_conf"],
        "attributes": _each(scores["attr"], targets["attributes"]) * targets["attributes_conf"],
        "features": _feature_error(scores["feat"], targets["features"]).mean(-1) * targets["features_asked"],
    }
    return {name: error_BR.mean() * weight for name, error_BR in errors.items()}


def _feature_error(said: Tensor, wanted: Tensor) -> Tensor:
    return smooth_l1_loss(said, wanted, reduction="none")


def _each(scores_BRC: Tensor, labels_BR: Tensor) -> Tensor:
    return cross_entropy(scores_BRC.flatten(0, 1), labels_BR.flatten(), reduction="none").view_as(labels_BR)


PRETRAINING = PretrainingSpec(
    PretrainingObjective,
    {"word_rate": 0.15, "region_rate": 0.15, "mismatch_rate": 0.2, "visual_weight": VISUAL_WEIGHT},
    "bertadam",
)

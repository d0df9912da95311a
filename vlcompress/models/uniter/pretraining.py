"""UNITER's pre-training (Chen et al., ECCV 2020, section 3.2): one of four objectives a step, drawn by a mix.

* mlm: masked words, the image whole.
* mrfr: features of masked regions, the text whole.
* mrc: classes of masked regions, by the divergence from the detector's probabilities (MRC-kl). Region files without
  probabilities (LXMERT's) give the detector's one class instead, counted from 1 as class 0 is the background: its
  divergence is a cross-entropy.
* itm: whether text and image belong together; word-region alignment by optimal transport is added to it.

Rates, weights and reductions are those of the official code (ChenRocks/UNITER ``pretrain.py``, ``data/*.py``).

Shapes: B batch, T words, R regions, F feature width, C region classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, mse_loss, one_hot
from torch.nn.utils.rnn import pad_sequence

from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Sample
from vlcompress.models.marginal import Asked, labelled
from vlcompress.models.masking import NOTHING, RegionSentence, at, masked_words, other_image, places
from vlcompress.models.objective import ASKED, Batch, PretrainingSpec, asked_share, row_share
from vlcompress.models.transport import transport_distance
from vlcompress.models.uniter.batches import collate

MIX: Mapping[str, float] = {"itm": 2, "mlm": 2, "mrfr": 1, "mrc": 1}
"""How often each objective is drawn: the official in-domain mix (``config/pretrain-indomain-base-8gpu.json``)."""

BACKGROUND = 1
"""Classes that come first in the head and in the detector's probabilities, and that no region's class counts."""


@dataclass(frozen=True)
class UniterPretrainingObjective:
    """UNITER's objectives over examples (see `vlcompress.models.objective.Objective`).

    Attributes:
        examples: sentences with their images.
        vocabulary: of the tokenizer that made the tokens.
        word_rate: chance that a word is to be predicted: of these 80 % become [MASK], 10 % a random word.
        region_rate: chance that a region is hidden: its features become 0, and the mask embedding is added.
        mismatch_rate: chance that a sentence is shown with another image.
        transport_weight: of the word-region alignment beside the matching loss.
        mix: how often each objective is drawn, in any unit.
    """

    examples: Sequence[RegionSentence]
    vocabulary: WordPiece
    word_rate: float = 0.15
    region_rate: float = 0.15
    mismatch_rate: float = 0.5
    transport_weight: float = 0.1
    mix: Mapping[str, float] = field(default_factory=lambda: MIX)

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch for one objective; objective, masks and mismatches are drawn from `rng` alone.

        Returns:
            inputs: those of `uniter.batches.collate`, with visual_masked bool [B, R] for mrfr and mrc.
            targets: one of words int64 [B, T] (-1: not asked for); features float32 [B, R, F] before masking; classes
                float32 [B, R, C], or int64 [B, R] where the detector gave one class alone; matched int64 [B] (1 = the
                image is the sentence's own). After the first three comes "asked" int64 [n, 2]: where the words
                or regions are that are asked for.

        Raises:
            VlcompressError: data of a single image, or without the regions' classes.
        """
        names = list(self.mix)
        weights = torch.tensor([float(self.mix[name]) for name in names])
        name = names[int(torch.multinomial(weights, 1, generator=rng))]
        examples = [self.examples[index] for index in indices]
        makers = {"mlm": self._words, "mrfr": self._features, "mrc": self._classes, "itm": self._matching}
        return makers[name](examples, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the loss of the batch's objective, a scalar.

        Args:
            model: a UNITER with the "pretraining" head.
            batch: as `batch` makes it; the name of its target tells the objective.
        """
        targets = batch.targets
        if "matched" in targets:
            return self._matching_loss(model, batch.inputs, targets["matched"])
        losses = {"words": _word_loss, "features": _feature_loss, "classes": _class_loss}
        (name,) = targets.keys() & losses
        return losses[name](model, batch.inputs, targets[name], targets[ASKED])

    def share(self, part: Batch) -> float:
        """See `vlcompress.models.objective.Divisible`."""
        return asked_share(part) if ASKED in part.targets else row_share(part)

    def asked(self, targets: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Asked]:
        """Say what the batch's objective asks for; one answer to all aligns every word with every region."""
        (name,) = targets.keys() & {"words", "features", "classes", "matched"}
        if name in ("words", "matched"):
            return {name: labelled(targets[name].flatten(), NOTHING)}
        wanted = at(targets[name], targets["asked"])
        each_N = torch.full((len(wanted),), 1 / len(wanted))
        if name == "features":
            return {name: Asked(wanted, each_N, _feature_error)}
        return {name: Asked(wanted, each_N / config["num_object_labels"])}

    def _words(self, examples: Sequence[RegionSentence], rng: torch.Generator) -> Batch:
        inputs = self._collate(examples, [example.regions for example in examples])
        shown_BT, words_BT = masked_words(
            inputs["input_ids"],
            inputs["attention_mask"].bool(),
            self.word_rate,
            self.vocabulary,
            rng,
            at_least_one=True,
            first_noise=_first_word(self.vocabulary),
        )
        return Batch(inputs | {"input_ids": shown_BT}, {"words": words_BT, ASKED: places(words_BT != NOTHING)})

    def _features(self, examples: Sequence[RegionSentence], rng: torch.Generator) -> Batch:
        inputs, features_BRF = self._hidden_regions(examples, rng)
        return Batch(inputs, {"features": features_BRF, ASKED: places(inputs["visual_masked"])})

    def _classes(self, examples: Sequence[RegionSentence], rng: torch.Generator) -> Batch:
        inputs, _ = self._hidden_regions(examples, rng)
        labels = [_labels(example.regions) for example in examples]
        classes = pad_sequence(labels, batch_first=True)
        return Batch(inputs, {"classes": classes, ASKED: places(inputs["visual_masked"])})

    def _hidden_regions(
        self, examples: Sequence[RegionSentence], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Hide some regions, at least one an image: the inputs, and the features before that."""
        inputs = self._collate(examples, [example.regions for example in examples])
        there_BR = inputs["visual_attention_mask"].bool()
        draw_BR = torch.rand(there_BR.shape, generator=rng).masked_fill(~there_BR, 2.0)
        masked_BR = (draw_BR < self.region_rate) | (draw_BR == draw_BR.amin(dim=1, keepdim=True))
        features_BRF = inputs["visual_feats"]
        shown_BRF = features_BRF.masked_fill(masked_BR[..., None], 0.0)
        return inputs | {"visual_feats": shown_BRF, "visual_masked": masked_BR}, features_BRF

    def _matching(self, examples: Sequence[RegionSentence], rng: torch.Generator) -> Batch:
        matched_B = torch.rand(len(examples), generator=rng) >= self.mismatch_rate
        shown = [
            example.regions if matched else self.examples[other_image(self.examples, example.img_id, rng)].regions
            for example, matched in zip(examples, matched_B.tolist(), strict=True)
        ]
        return Batch(self._collate(examples, shown), {"matched": matched_B.long()})

    def _matching_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], matched_B: Tensor) -> Tensor:
        parts: Any = model
        encoded = parts.uniter(**inputs)
        loss = cross_entropy(parts.itm_output(encoded.pooler_output), matched_B)
        words = inputs["input_ids"].shape[1]
        hidden = encoded.last_hidden_state
        masks = (inputs["attention_mask"].bool(), inputs["visual_attention_mask"].bool())
        distance_B = transport_distance(hidden[:, :words], hidden[:, words:], *masks)
        return loss + self.transport_weight * (distance_B * (2 * matched_B - 1)).mean()

    def _collate(self, examples: Sequence[RegionSentence], images: Sequence[Regions]) -> dict[str, Tensor]:
        texts = [example.tokens[example.tokens != self.vocabulary.pad_id] for example in examples]
        samples = [Sample(text, np.zeros_like(text), (regions,)) for text, regions in zip(texts, images, strict=True)]
        return collate(samples)


def _word_loss(model: nn.Module, inputs: Mapping[str, Tensor], labels_BT: Tensor, asked: Tensor) -> Tensor:
    parts: Any = model
    hidden = parts.hidden(**inputs)[:, : labels_BT.shape[1]]
    return cross_entropy(parts.cls.predictions(at(hidden, asked)), at(labels_BT, asked))


def _feature_loss(model: nn.Module, inputs: Mapping[str, Tensor], features_BRF: Tensor, asked: Tensor) -> Tensor:
    parts: Any = model
    return mse_loss(parts.feat_regress(_regions_at(model, inputs, asked)), at(features_BRF, asked))


def _feature_error(said: Tensor, wanted: Tensor) -> Tensor:
    return mse_loss(said, wanted, reduction="none")


def _class_loss(model: nn.Module, inputs: Mapping[str, Tensor], classes: Tensor, asked: Tensor) -> Tensor:
    """Compute the divergence as the official code does: the mean over regions and classes, not the sum over classes."""
    parts: Any = model
    scores = parts.region_classifier(_regions_at(model, inputs, asked))
    wanted = at(classes, asked)
    if not wanted.is_floating_point():
        wanted = one_hot(wanted, scores.shape[-1]).to(scores.dtype)
    return kl_div(scores.log_softmax(dim=-1), wanted, reduction="none").mean()


def _regions_at(model: nn.Module, inputs: Mapping[str, Tensor], asked: Tensor) -> Tensor:
    parts: Any = model
    return at(parts.hidden(**inputs)[:, inputs["input_ids"].shape[1] :], asked)


def _labels(regions: Regions) -> Tensor:
    if regions.soft_labels is None and (regions.objects_id < 0).any():
        raise VlcompressError(
            f"image '{regions.img_id}' has neither class probabilities nor classes of its regions: pre-train on region "
            "features that keep what the detector saw"
        )
    return torch.tensor(regions.objects_id + BACKGROUND if regions.soft_labels is None else regions.soft_labels)


def _first_word(ids: WordPiece) -> int:
    """Find the first id after the special tokens, which come first in BERT's vocabularies."""
    return max(ids.pad_id, ids.cls_id, ids.sep_id, ids.mask_id) + 1


PRETRAINING = PretrainingSpec(
    UniterPretrainingObjective,
    {"word_rate": 0.15, "region_rate": 0.15, "mismatch_rate": 0.5, "transport_weight": 0.1},
    "adamw",
    reads={"classes": "after the background"},
)

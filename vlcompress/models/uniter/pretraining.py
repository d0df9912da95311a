"""UNITER's pre-training (Chen et al., ECCV 2020, section 3.2): one of four objectives a step, drawn by a mix.

* mlm: masked words, the image whole.
* mrfr: features of masked regions, the text whole.
* mrc: classes of masked regions, by the divergence from the detector's probabilities (MRC-kl). Region files without
  probabilities (LXMERT's) give the detector's one class instead, counted from 1 as class 0 is the background: its
  divergence is a cross-entropy.
* itm: whether text and image belong together; word-region alignment by optimal transport is added to it.

Rates, weights and reductions are those of the official code (ChenRocks/UNITER ``pretrain.py``, ``data/*.py``). More is
done where it is set, as for the built-in data (`PRETRAINING`): questions end in their answer, which mlm asks for
(`answer_rate`), and mrc asks for regions that are not hidden too (`seen_rate`), with a cross-entropy's weight
(`class_weight`). A detector's features know its classes before pre-training begins, those of the built-in pictures
know nothing.

Shapes: B batch, T words, R regions, F feature width, C region classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
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

Ids = NDArray[np.int64]


class AnsweredSentence(RegionSentence, Protocol):
    """A sentence about an image, which may be a question."""

    @property
    def answer_tokens(self) -> NDArray[np.int64]:
        """Token ids [t] of the answer; none where the sentence is no question or its answer is unknown."""


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
        answer_rate: chance that a question ends in its answer, where that is known: mlm asks for it, as [MASK].
        seen_rate: chance that mrc asks for the class of a region that is not hidden.
        class_weight: of mrc's loss.
        mix: how often each objective is drawn, in any unit.
    """

    examples: Sequence[AnsweredSentence]
    vocabulary: WordPiece
    word_rate: float = 0.15
    region_rate: float = 0.15
    mismatch_rate: float = 0.5
    transport_weight: float = 0.1
    answer_rate: float = 0.0
    seen_rate: float = 0.0
    class_weight: float = 1.0
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
        loss = losses[name](model, batch.inputs, targets[name], targets[ASKED])
        return loss * self.class_weight if name == "classes" else loss

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
        return {name: Asked(wanted, each_N * self.class_weight / config["num_object_labels"])}

    def _words(self, examples: Sequence[AnsweredSentence], rng: torch.Generator) -> Batch:
        texts, answers = self._texts(examples, rng)
        inputs = self._collate(texts, examples)
        shown_BT, words_BT = masked_words(
            inputs["input_ids"],
            inputs["attention_mask"].bool(),
            self.word_rate,
            self.vocabulary,
            rng,
            at_least_one=True,
            sure_BT=_before_the_last(texts, answers) if any(answers) else None,
            first_noise=_first_word(self.vocabulary),
        )
        return Batch(inputs | {"input_ids": shown_BT}, {"words": words_BT, ASKED: places(words_BT != NOTHING)})

    def _features(self, examples: Sequence[AnsweredSentence], rng: torch.Generator) -> Batch:
        inputs, features_BRF = self._hidden_regions(examples, rng)
        return Batch(inputs, {"features": features_BRF, ASKED: places(inputs["visual_masked"])})

    def _classes(self, examples: Sequence[AnsweredSentence], rng: torch.Generator) -> Batch:
        inputs, _ = self._hidden_regions(examples, rng)
        labels = [_labels(example.regions) for example in examples]
        classes, asked_BR = pad_sequence(labels, batch_first=True), inputs["visual_masked"]
        if self.seen_rate:
            seen_BR = torch.rand(asked_BR.shape, generator=rng) < self.seen_rate
            asked_BR = asked_BR | (seen_BR & inputs["visual_attention_mask"].bool())
        return Batch(inputs, {"classes": classes, ASKED: places(asked_BR)})

    def _hidden_regions(
        self, examples: Sequence[AnsweredSentence], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Hide some regions, at least one an image: the inputs, and the features before that."""
        inputs = self._collate(self._texts(examples, rng)[0], examples)
        there_BR = inputs["visual_attention_mask"].bool()
        draw_BR = torch.rand(there_BR.shape, generator=rng).masked_fill(~there_BR, 2.0)
        masked_BR = (draw_BR < self.region_rate) | (draw_BR == draw_BR.amin(dim=1, keepdim=True))
        features_BRF = inputs["visual_feats"]
        shown_BRF = features_BRF.masked_fill(masked_BR[..., None], 0.0)
        return inputs | {"visual_feats": shown_BRF, "visual_masked": masked_BR}, features_BRF

    def _matching(self, examples: Sequence[AnsweredSentence], rng: torch.Generator) -> Batch:
        matched_B = torch.rand(len(examples), generator=rng) >= self.mismatch_rate
        shown = [
            example if matched else self.examples[other_image(self.examples, example.img_id, rng)]
            for example, matched in zip(examples, matched_B.tolist(), strict=True)
        ]
        return Batch(self._collate(self._texts(examples, rng)[0], shown), {"matched": matched_B.long()})

    def _matching_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], matched_B: Tensor) -> Tensor:
        parts: Any = model
        encoded = parts.uniter(**inputs)
        loss = cross_entropy(parts.itm_output(encoded.pooler_output), matched_B)
        words = inputs["input_ids"].shape[1]
        hidden = encoded.last_hidden_state
        masks = (inputs["attention_mask"].bool(), inputs["visual_attention_mask"].bool())
        distance_B = transport_distance(hidden[:, :words], hidden[:, words:], *masks)
        return loss + self.transport_weight * (distance_B * (2 * matched_B - 1)).mean()

    def _texts(self, examples: Sequence[AnsweredSentence], rng: torch.Generator) -> tuple[list[Ids], list[int]]:
        """Take the token ids, of questions with their answers by chance; and how many tokens each answer has."""
        texts = [example.tokens[example.tokens != self.vocabulary.pad_id] for example in examples]
        if not self.answer_rate:
            return texts, [0] * len(texts)
        told = (torch.rand(len(examples), generator=rng) < self.answer_rate).tolist()
        answers = [one.answer_tokens if it else one.answer_tokens[:0] for one, it in zip(examples, told, strict=True)]
        texts = [np.concatenate([text[:-1], answer, text[-1:]]) for text, answer in zip(texts, answers, strict=True)]
        return texts, [len(answer) for answer in answers]

    def _collate(self, texts: Sequence[Ids], beside: Sequence[AnsweredSentence]) -> dict[str, Tensor]:
        """Make the inputs of texts, each beside another sentence's image or its own."""
        images = [example.regions for example in beside]
        samples = [Sample(text, np.zeros_like(text), (regions,)) for text, regions in zip(texts, images, strict=True)]
        return collate(samples)


def _before_the_last(texts: Sequence[Ids], counts: Sequence[int]) -> Tensor:
    """Mark so many tokens before each text's last one, [SEP]: bool [B, T]."""
    lengths_B1, counts_B1 = (torch.tensor(numbers)[:, None] for numbers in ([len(text) for text in texts], counts))
    places_T = torch.arange(int(lengths_B1.max()))
    return (places_T < lengths_B1 - 1) & (places_T >= lengths_B1 - 1 - counts_B1)


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
    {
        "word_rate": 0.15,
        "region_rate": 0.15,
        "mismatch_rate": 0.5,
        "transport_weight": 0.1,
    },
    "adamw",
    reads={"classes": "after the background"},
    built_in={
        "answer_rate": 1.0,
        "seen_rate": 1.0,
        "class_weight": 14.0,
        "mix": {"itm": 0, "mlm": 2, "mrfr": 0, "mrc": 1},
    },
    background=BACKGROUND,
)

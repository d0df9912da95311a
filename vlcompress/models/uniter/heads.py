"""UNITER's task heads, one class each, with the parameter names of ChenRocks/UNITER (``model/*.py``).

Every forward takes the inputs of `UniterModel` by name and gives the scores that `vlcompress.models.base.HeadKind`
describes. Shapes: as in model.py; C classes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForVisualQuestionAnswering,
)

from vlcompress.models.building import left_and_right
from vlcompress.models.uniter.config import UniterConfig
from vlcompress.models.uniter.model import LAYER_NORM_EPS, UniterModel, UniterPreTrainedModel, visible

PADDED = -1e4
"""Score of a region that is padding (ChenRocks/UNITER ``model/re.py``)."""


class UniterWithHead(UniterPreTrainedModel):
    """A backbone with a head to come."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.uniter = UniterModel(config)

    def pooled(self, **inputs: Tensor) -> Tensor:
        """Compute the pooled [CLS] [B, H] without the rows of the last layer that it does not depend on."""
        result: Tensor = self.uniter(**inputs, first_only=True).pooler_output
        return result

    def hidden(self, **inputs: Tensor) -> Tensor:
        """Compute the last layer's output [B, T+R, H]."""
        result: Tensor = self.uniter(**inputs).last_hidden_state
        return result


class UniterForAnswers(UniterWithHead):
    """VQA, GQA and SNLI-VE: [B, labels]."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.vqa_output = _mlp(width, 2 * width, config.num_labels, nn.GELU())
        self.post_init()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Compute the scores of every answer."""
        result: Tensor = self.vqa_output(self.pooled(**inputs))
        return result


class UniterForChoice(UniterWithHead):
    """VCR: wrong and right of one choice [B, 2]."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vcr_output = _mlp(config.hidden_size, 2 * config.hidden_size, 2, nn.ReLU())
        self.post_init()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Compute the scores of wrong and right."""
        result: Tensor = self.vcr_output(self.pooled(**inputs))
        return result


class UniterForMatching(UniterWithHead):
    """Retrieval: how well text and image match [B]; before any fine-tuning the score is that of pre-training."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.rank_output = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Compute the rank scores, before the sigmoid."""
        result: Tensor = self.rank_output(self.pooled(**inputs))[:, 0]
        return result


class UniterForRegions(UniterWithHead):
    """RefCOCO: a score for every region [B, R], `PADDED` where there is none."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.re_output: nn.Module = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Compute the scores of the regions."""
        words = inputs["input_ids"].shape[1]
        scores_BR: Tensor = self.re_output(self.hidden(**inputs)[:, words:])[..., 0]
        return scores_BR.masked_fill(~_visible(inputs)[:, words:], PADDED)


class UniterForRegionsMlp(UniterForRegions):
    """RefCOCO with the two-layer head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.re_output = _mlp(config.hidden_size, config.hidden_size, 1, nn.GELU())
        self.post_init()


class UniterForPaired(UniterWithHead):
    """NLVR2: text with the left and with the right image, both [CLS] side by side.

    The inputs of this class and of the two below have 2 B rows: an example's row with its left image (type 1), then
    its row with the right image (type 2). The result is [B, 2]: false, true.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.nlvr2_output = nn.Linear(2 * config.hidden_size, 2)
        self.post_init()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Compute the scores of false and true."""
        result: Tensor = self.nlvr2_output(_sides(self.pooled(**inputs)).flatten(1))
        return result


class UniterForTriplet(UniterWithHead):
    """NLVR2: text, left and right image in one sequence."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.nlvr2_output = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Compute the scores of false and true."""
        images = {name: _sides(value) for name, value in inputs.items() if name.startswith("visual")}
        words = {name: value[::2] for name, value in inputs.items() if name not in images}
        result: Tensor = self.nlvr2_output(
            self.pooled(**words, **{name: value.flatten(1, 2) for name, value in images.items()})
        )
        return result


class AttentionPool(nn.Module):
    """A mean of a sequence, weighted by a score of each place."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(config.hidden_size, 1), nn.ReLU())
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden_BSH: Tensor, padded_BS: Tensor) -> Tensor:
        """Pool to [B, H]."""
        scores_BS = self.fc(hidden_BSH)[..., 0] + padded_BS * PADDED
        weights_BS: Tensor = self.dropout(scores_BS.softmax(dim=1))
        return (weights_BS[:, None] @ hidden_BSH)[:, 0]


class UniterForPairedAttention(UniterWithHead):
    """NLVR2, the published form: as paired, and the two sequences look at each other before they are pooled."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width, heads, drop = config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob
        self.attn1 = nn.MultiheadAttention(width, heads, drop, batch_first=True)
        self.attn2 = nn.MultiheadAttention(width, heads, drop, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(config.hidden_dropout_prob))
        self.attn_pool = AttentionPool(config)
        self.nlvr2_output = nn.Linear(2 * width, 2)
        self.post_init()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Compute the scores of false and true."""
        left_BSH, right_BSH = _sides(self.hidden(**inputs)).unbind(1)
        no_left_BS, no_right_BS = _sides(~_visible(inputs)).unbind(1)
        seen_by_left, _ = self.attn1(left_BSH, right_BSH, right_BSH, key_padding_mask=no_right_BS, need_weights=False)
        seen_by_right, _ = self.attn2(right_BSH, left_BSH, left_BSH, key_padding_mask=no_left_BS, need_weights=False)
        left_BH = self.attn_pool(self.fc(torch.cat([seen_by_left, left_BSH], dim=-1)), no_left_BS)
        right_BH = self.attn_pool(self.fc(torch.cat([seen_by_right, right_BSH], dim=-1)), no_right_BS)
        result: Tensor = self.nlvr2_output(torch.cat([left_BH, right_BH], dim=-1))
        return result


class WordTransform(nn.Module):
    """What stands between a word's hidden state and the vocabulary."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Project to what `x` [..., H] is compared with the word embeddings as."""
        result: Tensor = self.LayerNorm(nn.functional.gelu(self.dense(x)))
        return result


class WordPredictions(nn.Module):
    """BERT's masked-word scores; the decoder is the table of word embeddings."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.transform = WordTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """Score every word of the vocabulary [..., words]."""
        result: Tensor = self.decoder(self.transform(x)) + self.bias
        return result


class WordHead(nn.Module):
    """The holder that gives the masked-word scores their official name."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.predictions = WordPredictions(config)


class FeatureRegression(nn.Module):
    """Masked region features: back through the transposed projection that let them in."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=LAYER_NORM_EPS))
        self.weight = nn.Parameter(torch.empty(width, config.visual_feat_dim))
        self.bias = nn.Parameter(torch.zeros(config.visual_feat_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Regress region features [..., F]."""
        return linear(self.net(x), self.weight.t(), self.bias)


class RegionClassifier(nn.Module):
    """Masked region classes."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.net = _mlp(config.hidden_size, config.hidden_size, config.num_object_labels, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Score region classes [..., C]."""
        result: Tensor = self.net(x)
        return result


class UniterForPretraining(UniterWithHead):
    """All of pre-training's heads; see `vlcompress.models.uniter.pretraining` for what is done with them."""

    _tied_weights_keys: ClassVar = {
        "cls.predictions.decoder.weight": "uniter.embeddings.word_embeddings.weight",
        "feat_regress.weight": "uniter.img_embeddings.img_linear.weight",
    }

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.cls = WordHead(config)
        self.feat_regress = FeatureRegression(config)
        self.region_classifier = RegionClassifier(config)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.post_init()  # ties the two

    def tie_weights(self, *arguments: Any, **options: Any) -> None:
        """Tie the two, and keep the regression's bias: transformers cuts a bias to its tied weight's first axis."""
        bias = self.feat_regress.bias
        data = bias.data
        super().tie_weights(*arguments, **options)
        bias.data = data

    def get_output_embeddings(self) -> nn.Module:
        """Return the tied decoder."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the decoder."""
        assert isinstance(value, nn.Linear)
        self.cls.predictions.decoder = value


HEADS: Mapping[tuple[str, str], type[UniterWithHead]] = {
    # By kind and variant; "" is the official default.
    ("answers", ""): UniterForAnswers,
    ("choice", ""): UniterForChoice,
    ("match", ""): UniterForMatching,
    ("region", ""): UniterForRegions,
    ("region", "mlp"): UniterForRegionsMlp,
    ("pair", ""): UniterForPairedAttention,
    ("pair", "paired-attn"): UniterForPairedAttention,
    ("pair", "paired"): UniterForPaired,
    ("pair", "triplet"): UniterForTriplet,
    ("pretraining", ""): UniterForPretraining,
}


for auto, kind in {
    AutoModel: UniterModel,
    AutoModelForQuestionAnswering: UniterForAnswers,
    AutoModelForVisualQuestionAnswering: UniterForAnswers,
    AutoModelForMultipleChoice: UniterForChoice,
    AutoModelForPreTraining: UniterForPretraining,
}.items():
    auto.register(UniterConfig, kind)


def _mlp(width: int, inner: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, inner), activation, nn.LayerNorm(inner, eps=LAYER_NORM_EPS), nn.Linear(inner, outputs)
    )


def _sides(x: Tensor) -> Tensor:
    """Part the rows of left and right images: [2 B, ...] to [B, 2, ...]."""
    return torch.stack(left_and_right(x), dim=1)


def _visible(inputs: Mapping[str, Tensor]) -> Tensor:
    return visible(
        inputs["input_ids"],
        inputs["visual_pos"],
        inputs.get("attention_mask"),
        inputs.get("visual_attention_mask"),
    )

"""LXMERT's forward pass (Tan and Bansal, EMNLP 2019): a language, a vision and a cross-modality encoder.

The modules and their names are those of transformers' LXMERT, so weights go to and from Hugging Face unchanged. Two
things differ, neither in the numbers: attention runs through `scaled_dot_product_attention`, and a forward pass for
answers leaves out what the answer cannot depend on (see `pooled`).

Shapes: B batch, T words, R regions, S keys (T or R), H hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertForQuestionAnswering

from vlcompress.models.attention import Attention, additive
from vlcompress.models.blocks import run_block

OFFICIAL_NAMES = (
    # airsplay/lxmert to transformers, for regular-expression substitution in this order; others are the same in both.
    (r"^lxrt_encoder\.model\.", ""),  # a fine-tuned snapshot
    (r"^bert\.", "lxmert."),
    (r"^logit_fc\.", "answer_head.logit_fc."),
    (r"\.gamma$", ".weight"),  # LayerNorm in files of 2018 and 2019
    (r"\.beta$", ".bias"),
)


@dataclass(frozen=True)
class LxmertStates:
    """What the backbone makes of a batch: language [B, T, H], vision [B, R, H], pooled [B, H] from the first word."""

    language: Tensor
    vision: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class _Streams:
    """Both modalities on their way through the layers, with their additive masks [B, 1, 1, S] (None: all visible)."""

    language: Tensor
    vision: Tensor
    language_mask: Tensor | None
    vision_mask: Tensor | None


def encode(model: nn.Module, inputs: Mapping[str, Tensor]) -> LxmertStates:
    """Run the whole backbone.

    Args:
        model: a model of this family.
        inputs: input_ids int64 [B, T]; visual_feats float [B, R, F]; visual_pos float [B, R, 4] in 0..1; optionally
            attention_mask [B, T] and visual_attention_mask [B, R] (int64 or bool, 1 = visible).
    """
    backbone: Any = model.lxmert
    streams = _single_modality(backbone, inputs)
    for layer in backbone.encoder.x_layers:
        streams = _cross_modality(layer, streams)
    return LxmertStates(streams.language, streams.vision, backbone.pooler(streams.language))


def pooled(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Compute `encode(model, inputs).pooled` [B, H] without the work that it cannot depend on.

    The pooler reads the first word alone, so in the last cross-modality layer the vision half and, from the
    self-attention on, every other word are left out. Their weights get no gradient in either form.
    """
    backbone: Any = model.lxmert
    streams = _single_modality(backbone, inputs)
    *layers, last = backbone.encoder.x_layers
    for layer in layers:
        streams = _cross_modality(layer, streams)
    result: Tensor = backbone.pooler(_first_word(last, streams))
    return result


class LxmertForImagePairs(LxmertForQuestionAnswering):  # type: ignore[misc]  # transformers has no types
    """A statement about two images (NLVR2): both pooled outputs side by side through VQA's head, twice as wide.

    Weights have the names of `LxmertForQuestionAnswering`, so official NLVR2 snapshots load like those of VQA.
    """

    def __init__(self, config: LxmertConfig) -> None:
        """Make the model for a configuration."""
        super().__init__(config)
        width = 2 * config.hidden_size
        self.answer_head.logit_fc[0] = nn.Linear(width, width)


def take_over_attention(model: nn.Module) -> None:
    """Run every attention of a transformers LXMERT through `Attention`, in place."""
    for layer in list(model.modules()):
        for slot in ("self", "att"):  # transformers' names for the attention of self and of cross attention layers
            if hasattr(getattr(layer, slot, None), "query"):
                setattr(layer, slot, Attention(getattr(layer, slot)))


def _single_modality(backbone: Any, inputs: Mapping[str, Tensor]) -> _Streams:
    input_ids = inputs["input_ids"]
    language = backbone.embeddings(input_ids, torch.zeros_like(input_ids))
    vision = backbone.encoder.visn_fc(inputs["visual_feats"], inputs["visual_pos"])
    language_mask = additive(inputs.get("attention_mask"), language)
    vision_mask = additive(inputs.get("visual_attention_mask"), vision)
    for layer in backbone.encoder.layer:
        language = run_block(layer, layer, language, language_mask)[0]
    for layer in backbone.encoder.r_layers:
        vision = run_block(layer, layer, vision, vision_mask)[0]
    return _Streams(language, vision, language_mask, vision_mask)


def _cross_modality(layer: Any, streams: _Streams) -> _Streams:
    inputs = (streams.language, streams.language_mask, streams.vision, streams.vision_mask)
    language, vision = run_block(layer, layer, *inputs)
    return _Streams(language, vision, streams.language_mask, streams.vision_mask)


def _first_word(layer: Any, streams: _Streams) -> Tensor:
    """Compute the first word [B, 1, H] of a cross-modality layer's language output, computing nothing else."""
    words = layer.visual_attention(streams.language, streams.vision, streams.vision_mask)[0]
    first = words[:, :1]
    (context,) = layer.lang_self_att.self(first, words, streams.language_mask)
    attended = layer.lang_self_att.output(context, first)
    result: Tensor = layer.lang_output(layer.lang_inter(attended), attended)
    return result

"""UNITER's encoder (Chen et al., ECCV 2020): one transformer over the words of a text and the regions of an image.

Parameters have the names of ChenRocks/UNITER, so its files load as they are. Two things differ, neither in the numbers:

* attention runs through `scaled_dot_product_attention`;
* the official code packs [text | image] with a gather, so that padding comes after both. Here each part keeps its own
  padding, which the attention mask hides: positions enter through the embeddings alone, so a row's result does not
  depend on where the others stand. A graph without the gather exports with free axes, and one text length or region
  count a batch costs no more than before.

Shapes: B batch, T words, R regions, S = T + R keys, Q queries, H hidden width, N attention heads, D width of one head,
F feature width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlcompress.models.attention import MultiHeadAttention, additive
from vlcompress.models.blocks import run_block
from vlcompress.models.uniter.config import UniterConfig

LAYER_NORM_EPS = 1e-12
BOX_WIDTH = 7
"""A region's place: (x1, y1, x2, y2, width, height, area), all as fractions of the image."""


class TextEmbeddings(nn.Module):
    """Words with their places and types."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids_BT: Tensor, types_BT: Tensor | None) -> Tensor:
        """Embed words [B, T, H]; without types every word is of type 0."""
        places_TH = self.position_embeddings(torch.arange(ids_BT.shape[1], device=ids_BT.device))
        types = self.token_type_embeddings(torch.zeros_like(ids_BT) if types_BT is None else types_BT)
        result: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(ids_BT) + places_TH + types))
        return result


class ImageEmbeddings(nn.Module):
    """Regions with their places and types."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.img_linear = nn.Linear(config.visual_feat_dim, width)
        self.img_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.pos_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.pos_linear = nn.Linear(BOX_WIDTH, width)
        self.mask_embedding = nn.Embedding(2, config.visual_feat_dim, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features_BRF: Tensor, boxes_BR7: Tensor, types_BRH: Tensor, masked_BR: Tensor | None) -> Tensor:
        """Embed regions [B, R, H].

        Args:
            features_BRF: of the regions, 0 where masked.
            boxes_BR7: see `BOX_WIDTH`.
            types_BRH: embeddings of the regions' types, from the table that the text has.
            masked_BR: True where a region's features are hidden (pre-training); these get row 1 of `mask_embedding`.
                Row 0 is never read: the official code sets it to 0 before it adds it.
        """
        if masked_BR is not None:
            features_BRF = features_BRF + masked_BR[..., None] * self.mask_embedding.weight[1]
        looks = self.img_layer_norm(self.img_linear(features_BRF))
        places = self.pos_layer_norm(self.pos_linear(boxes_BR7))
        result: Tensor = self.dropout(self.LayerNorm(looks + places + types_BRH))
        return result


class SelfAttention(MultiHeadAttention):
    """Attention over words and regions together."""

    def __init__(self, config: Any) -> None:
        width = config.hidden_size
        query, key, value = (nn.Linear(width, width) for _ in range(3))
        dropout = nn.Dropout(config.attention_probs_dropout_prob)
        super().__init__(query, key, value, dropout, heads=config.num_attention_heads)

    def forward(self, asking_BQH: Tensor, hidden_BSH: Tensor, mask: Tensor | None) -> Tensor:
        """Attend: [B, Q, N*D]; `mask` is added to the scores [B, N, Q, S]."""
        return self.attend(asking_BQH, hidden_BSH, mask)


class Output(nn.Module):
    """A linear layer back to the hidden width, added to what came in, and normalised."""

    def __init__(self, width: int, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add to `residual` what the layer makes of `x`."""
        result: Tensor = self.LayerNorm(residual + self.dropout(self.dense(x)))
        return result


class AttentionBlock(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Output(config.hidden_size, config)


class Intermediate(nn.Module):
    """The first half of the feed-forward part."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """Compute gelu(dense(x)), with the exact GELU."""
        return gelu(self.dense(x))


class Layer(nn.Module):
    """One transformer layer, normalised after each half as in BERT."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention = AttentionBlock(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config.intermediate_size, config)

    def forward(self, hidden_BSH: Tensor, mask: Tensor | None, queries: int | None = None) -> Tensor:
        """Run the block, [B, S, H], or [B, queries, H]: the first rows alone, for less work."""
        asking = hidden_BSH if queries is None else hidden_BSH[:, :queries]
        attended = self.attention.output(self.attention.self(asking, hidden_BSH, mask), asking)
        result: Tensor = self.output(self.intermediate(attended), attended)
        return result


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class Pooler(nn.Module):
    """tanh of a linear layer over the first word, [CLS]."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_BSH: Tensor) -> Tensor:
        """Pool to [B, H]."""
        return torch.tanh(self.dense(hidden_BSH[:, 0]))


class UniterPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What the encoder and the models with heads share: configuration, prefix, fresh weights."""

    config_class = UniterConfig
    base_model_prefix = "uniter"
    _supports_sdpa = True


class UniterModel(UniterPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.img_embeddings = ImageEmbeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor,
        visual_feats: Tensor,
        visual_pos: Tensor,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        visual_type_ids: Tensor | None = None,
        visual_masked: Tensor | None = None,
        output_hidden_states: bool = False,
        first_only: bool = False,
    ) -> Any:
        """Encode texts with their images.

        Args:
            input_ids: int64 [B, T].
            visual_feats: float [B, R, F].
            visual_pos: float [B, R, 7], see `BOX_WIDTH`.
            attention_mask: int64 or bool [B, T], 1 = visible; None shows every word.
            visual_attention_mask: int64 or bool [B, R], likewise.
            token_type_ids: int64 [B, T]; None is 0 throughout.
            visual_type_ids: int64 [B, R]; None is 1 throughout.
            visual_masked: bool [B, R]; see `ImageEmbeddings`.
            output_hidden_states: also give the embeddings and every layer's output.
            first_only: compute the last layer for [CLS] alone, all that the pooler reads.

        Returns:
            transformers' BaseModelOutputWithPooling: last_hidden_state [B, T+R, H], text first ([B, 1, H] with
            `first_only`), and pooler_output [B, H].
        """
        types_BR = (
            torch.ones_like(visual_pos[..., 0], dtype=torch.int64) if visual_type_ids is None else visual_type_ids
        )
        types_BRH = self.embeddings.token_type_embeddings(types_BR)
        text = self.embeddings(input_ids, token_type_ids)
        image = self.img_embeddings(visual_feats, visual_pos, types_BRH, visual_masked)
        hidden = torch.cat([text, image], dim=1)
        mask = additive(visible(input_ids, visual_pos, attention_mask, visual_attention_mask), hidden)
        states = [hidden]
        *layers, last = self.encoder.layer
        for layer in layers:
            states.append(run_block(layer, layer, states[-1], mask))
        states.append(run_block(last, last, states[-1], mask, 1 if first_only else None))
        return BaseModelOutputWithPooling(
            last_hidden_state=states[-1],
            pooler_output=self.pooler(states[-1]),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


def visible(
    input_ids: Tensor, visual_pos: Tensor, attention_mask: Tensor | None, visual_attention_mask: Tensor | None
) -> Tensor:
    """Mark what is no padding, bool [B, T+R]; a mask that is None shows all of its part."""
    words = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    regions = torch.ones_like(visual_pos[..., 0]) if visual_attention_mask is None else visual_attention_mask
    return torch.cat([words.bool(), regions.bool()], dim=1)

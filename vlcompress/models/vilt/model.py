"""ViLT's forward pass (Kim, Son and Kim, ICML 2021): one transformer over word pieces and patches of the raw picture.

The modules and their names are those of transformers' ViLT. The numbers are those of the original (dandelin/ViLT) where
transformers differs from it: LayerNorm epsilons (1e-6 in the blocks, 1e-12 in the text embeddings and the word head),
dropout 0.1 everywhere but on the attention weights, also between the two feed-forward projections. Attention runs
through `scaled_dot_product_attention`.

Both codes draw the order of the patches, and which of them fill up a shorter picture, with `torch.multinomial`. Here
the order is fixed: row by row, and nothing looks at what pads a picture. Attention does not depend on the order, so
outputs are equal up to it. Nor are patches left out at random above 200, as in the official pre-training.

Shapes: B batch, T words, P patches (after the image's own [CLS]), S = T + 1 + P tokens, H hidden width, Y and X rows
and columns of patches, G rows (and columns) of the position table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, pad, relu
from transformers import ViltConfig, ViltForMaskedLM

from vlcompress.models.attention import Attention
from vlcompress.models.blocks import run_block

MAX_WORDS = 40
"""Longest sentence in word pieces, [CLS] and [SEP] included; the official code pads every sentence to it."""
TEXT_EPS = 1e-12
"""BERT's, in the text embeddings and the word head; the blocks have timm's 1e-6."""


class ViltForPretraining(ViltForMaskedLM):  # type: ignore[misc]
    """The masked-word head of transformers and, beside it, ViLT's image-text matching head.

    As in the original the word head has weights of its own: transformers would tie them to the word embeddings.
    """

    def __init__(self, config: ViltConfig) -> None:
        config.tie_word_embeddings = False
        super().__init__(config)
        self.itm_score = nn.ModuleDict({"fc": nn.Linear(config.hidden_size, 2)})


def follow_the_original(model: nn.Module) -> None:
    """Give a transformers ViLT the original's epsilons and this project's attention, in place."""
    parts: Any = model
    parts.vilt.embeddings.text_embeddings.LayerNorm.eps = TEXT_EPS
    if isinstance(model, ViltForPretraining):
        parts.mlm_score.transform.LayerNorm.eps = TEXT_EPS
    for layer in parts.vilt.encoder.layer:
        layer.attention.attention = Attention(layer.attention.attention)


@dataclass(frozen=True)
class ViltStates:
    """What the backbone makes of a batch.

    Attributes:
        text: [B, T, H].
        image: [B, 1 + P, H]: the image's own [CLS], then its patches, row by row, among them what pads it (which comes
            last on the CPU, see `_packed`).
        image_mask: bool [B, 1 + P], True where `image` is the picture's.
        pooled: [B, H], from the first word.
    """

    text: Tensor
    image: Tensor
    image_mask: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class _Tokens:
    """Text and image on their way in: values [B, S, H], additive mask [B, 1, 1, S] (None: all visible)."""

    values: Tensor
    mask: Tensor | None
    image_mask: Tensor
    words: int


def encode(model: nn.Module, inputs: Mapping[str, Tensor]) -> ViltStates:
    """Run the whole backbone on one image for each text.

    Args:
        model: a model of this family.
        inputs: input_ids int64 [B, T]; pixel_values float [B, 3, height, width]; optionally attention_mask [B, T] and
            pixel_mask [B, height, width] (bool or int64, 1 = picture, which lies in the upper left corner).
    """
    backbone: Any = model.vilt
    tokens = _embed(backbone.embeddings, inputs)
    values_BSH = tokens.values
    for layer in backbone.encoder.layer:
        values_BSH = _block(layer, values_BSH, values_BSH, tokens.mask)
    values_BSH = backbone.layernorm(values_BSH)
    text, image = values_BSH[:, : tokens.words], values_BSH[:, tokens.words :]
    return ViltStates(text, image, tokens.image_mask, backbone.pooler(values_BSH))


def pooled(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Compute `encode(model, inputs).pooled` [B, H], with the first word alone in the last block.

    The pooler reads nothing else; the last block still looks at every token for it.
    """
    backbone: Any = model.vilt
    tokens = _embed(backbone.embeddings, inputs)
    values_BSH = tokens.values
    *layers, last = backbone.encoder.layer
    for layer in layers:
        values_BSH = _block(layer, values_BSH, values_BSH, tokens.mask)
    first_B1H = _block(last, values_BSH[:, :1], values_BSH, tokens.mask)
    result: Tensor = backbone.pooler(backbone.layernorm(first_B1H))
    return result


def _block(layer: Any, asking: Tensor, x_BSH: Tensor, mask: Tensor | None) -> Tensor:
    """Run a block for the tokens `asking` [B, ?, H], the first ones of `x_BSH`, which look at all of them."""
    return run_block(layer, _inside_block, layer, asking, x_BSH, mask)


def _inside_block(layer: Any, asking: Tensor, x_BSH: Tensor, mask: Tensor | None) -> Tensor:
    seen_BSH = layer.layernorm_before(x_BSH)
    (context,) = layer.attention.attention(seen_BSH[:, : asking.shape[1]], seen_BSH, mask)
    attended = asking + layer.attention.output(context, asking)
    inner = layer.intermediate(layer.layernorm_after(attended))
    inner = dropout(inner, layer.output.dropout.p, layer.training)  # timm's Mlp has it here too, transformers does not
    result: Tensor = layer.output(inner, attended)
    return result


def _embed(embeddings: Any, inputs: Mapping[str, Tensor]) -> _Tokens:
    text_BTH = _text(embeddings.text_embeddings, inputs["input_ids"])
    image_BPH, image_mask_BP = _image_tokens(embeddings, inputs["pixel_values"], inputs.get("pixel_mask"))
    modalities = embeddings.token_type_embeddings.weight
    values = torch.cat([text_BTH + modalities[0], image_BPH + _image_modality(modalities, len(image_BPH))], dim=1)
    words = inputs.get("attention_mask")
    if words is None and "pixel_mask" not in inputs:
        return _Tokens(values, None, image_mask_BP, text_BTH.shape[1])
    words_BT = torch.ones_like(inputs["input_ids"]).bool() if words is None else words.bool()
    hidden_BS = 1 - torch.cat([words_BT, image_mask_BP], dim=1).to(values.dtype)
    mask = (hidden_BS * torch.finfo(values.dtype).min)[:, None, None, :]  # added to the scores, as transformers does
    return _Tokens(values, mask, image_mask_BP, text_BTH.shape[1])


def _image_modality(table: Tensor, rows: int) -> Tensor:
    """Look up what says "image": row 1 of the table; where it has a third row, that for every second image (NLVR2)."""
    if len(table) < 3:
        return table[1]
    return table[1 + torch.arange(rows, device=table.device) % 2][:, None]


def _text(embeddings: Any, ids_BT: Tensor) -> Tensor:
    words = embeddings.word_embeddings(ids_BT) + embeddings.token_type_embeddings.weight[0]
    places = embeddings.position_embeddings.weight[: ids_BT.shape[1]]
    result: Tensor = embeddings.dropout(embeddings.LayerNorm(words + places))
    return result


def _image_tokens(embeddings: Any, pixels: Tensor, pixel_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Embed the image's tokens [B, 1 + P, H], its [CLS] first, and which of them are the picture's, bool [B, 1 + P]."""
    projection = embeddings.patch_embeddings.projection
    patches = conv2d(pixels, projection.weight, projection.bias, projection.stride)
    rows, columns = patches.shape[2:]
    first, table = embeddings.position_embeddings[:, :1], embeddings.position_embeddings[0, 1:]
    if pixel_mask is None:
        visible = torch.ones(pixels.shape[0], rows, columns, dtype=torch.bool, device=pixels.device)
    else:  # a patch belongs to the picture if its last pixel does: padding completes no patch
        down, across = projection.stride
        visible = pixel_mask[:, down - 1 :: down, across - 1 :: across][:, :rows, :columns].bool()
    values = patches.permute(0, 2, 3, 1) + _positions(table, visible)
    values, visible = _packed(values.flatten(1, 2), visible.flatten(1))
    values = torch.cat([(embeddings.cls_token + first).expand(len(values), -1, -1), values], dim=1)
    return embeddings.dropout(values), pad(visible, (1, 0), value=True)


def _positions(table_GH: Tensor, visible_BYX: Tensor) -> Tensor:
    """Stretch the position table over each picture's own rows and columns: [B, Y, X, H].

    Bilinear interpolation whose corners are the table's corners, written as two products with hat functions, so that
    pictures of all sizes are done at once and the sizes may stay open in an exported graph.
    """
    side = round(table_GH.shape[0] ** 0.5)
    table_GGH = table_GH.view(side, side, -1)
    down_BYG = _hats(visible_BYX[:, :, 0].sum(1), visible_BYX.shape[1], table_GH, side)
    across_BXG = _hats(visible_BYX[:, 0, :].sum(1), visible_BYX.shape[2], table_GH, side)
    stretched_BYGH = torch.einsum("byg,gkh->bykh", down_BYG, table_GGH)
    return torch.einsum("bxk,bykh->byxh", across_BXG, stretched_BYGH)


def _hats(counts_B: Tensor, length: int, like: Tensor, side: int) -> Tensor:
    """Spread the share [B, length, side] that each of `side` entries has in each place over `counts` places."""
    exact = torch.promote_types(like.dtype, torch.float32)  # places in two bytes would be off by several per cent
    scale_B = (side - 1) / (counts_B - 1).clamp(min=1).to(exact)
    places = torch.arange(length, device=like.device, dtype=exact)
    entries = torch.arange(side, device=like.device, dtype=exact)
    where_BL = (places * scale_B[:, None]).clamp(max=side - 1)  # beyond the picture nothing looks
    return relu(1 - (where_BL[:, :, None] - entries).abs()).to(like.dtype)


def _packed(values_BPH: Tensor, visible_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding behind the picture and cut what pads every picture; order is kept. The result is the same without.

    It saves work on the CPU. How much is cut depends on the masks, so it is not done in compiled or exported graphs,
    nor on a GPU, where the host would have to wait for the masks and no CUDA graph could be captured.
    """
    if torch.compiler.is_compiling() or values_BPH.device.type != "cpu" or bool(visible_BP.all()):
        return values_BPH, visible_BP
    most = int(visible_BP.sum(1).max())
    order_BP = visible_BP.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    index = order_BP[:, :, None].expand(-1, -1, values_BPH.shape[2])
    return values_BPH.gather(1, index), visible_BP.gather(1, order_BP)

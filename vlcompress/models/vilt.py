"""ViLT (Kim, Son and Kim, ICML 2021): one transformer over word pieces and patches of the raw picture.

The modules and their names are those of transformers' ViLT, so weights go to and from Hugging Face unchanged. The
numbers are those of the original (dandelin/ViLT) where transformers differs from it: LayerNorm epsilons (1e-6 in the
blocks, 1e-12 in the text embeddings and the word head), dropout 0.1 everywhere but on the attention weights, also
between the two feed-forward projections. Attention runs through `scaled_dot_product_attention`.

Both codes draw the order of the patches, and which of them fill up a shorter picture, with `torch.multinomial`. Here
the order is fixed: row by row, the patches of a picture first, then what pads it, which nothing looks at. Attention
does not depend on the order, so outputs are equal up to it. Nor are patches left out at random above 200, as in the
official pre-training.

Shapes: B batch, I images of an example, T words, P patches (after the image's own [CLS]), S = T + 1 + P tokens,
H hidden width, Y and X rows and columns of patches, G rows (and columns) of the position table.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, pad, relu
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
)

from vlcompress.data.examples import Pictures
from vlcompress.data.pixels import Resized, normalized
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Config, Coupling, Head, HeadKind, LoadReport, Prunable, Sample
from vlcompress.models.building import materialise, skeleton
from vlcompress.models.checkpoints import Tensors, load_strictly, read_checkpoint, renamed
from vlcompress.models.lxmert import Attention

_SIZES: dict[str, Config] = {
    # tiny is for tests, small for the built-in pictures (128 x 96, taken as they are), base is the published model.
    "tiny": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "image_size": 48,
        "patch_size": 16,
    },
    "small": {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "image_size": 96,
        "patch_size": 16,
        "hidden_dropout_prob": 0.0,  # as LXMERT's small
    },
    "base": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "image_size": 384,
        "patch_size": 32,
    },
}
_WORDS = 40
"""Longest text in word pieces (max_text_len of the official configuration)."""

_TEXT_EPS = 1e-12  # BERT's, in the text embeddings and the word head; the blocks have timm's 1e-6

OFFICIAL_NAMES = (
    # dandelin/ViLT to transformers, for regular-expression substitution in this order; see `canonical` for q, k, v.
    (r"^module\.", ""),  # saved from DataParallel
    (r"^transformer\.blocks\.(\d+)\.", r"vilt.encoder.layer.\1."),
    (r"^(vilt\.encoder\.layer\.\d+\.)norm1\.", r"\1layernorm_before."),
    (r"^(vilt\.encoder\.layer\.\d+\.)norm2\.", r"\1layernorm_after."),
    (r"^(vilt\.encoder\.layer\.\d+\.)attn\.proj\.", r"\1attention.output.dense."),
    (r"^(vilt\.encoder\.layer\.\d+\.)attn\.(query|key|value)\.", r"\1attention.attention.\2."),
    (r"^(vilt\.encoder\.layer\.\d+\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"^(vilt\.encoder\.layer\.\d+\.)mlp\.fc2\.", r"\1output.dense."),
    (r"^transformer\.cls_token$", "vilt.embeddings.cls_token"),
    (r"^transformer\.pos_embed$", "vilt.embeddings.position_embeddings"),
    (r"^transformer\.patch_embed\.proj\.", "vilt.embeddings.patch_embeddings.projection."),
    (r"^transformer\.norm\.", "vilt.layernorm."),
    (r"^(text_embeddings|token_type_embeddings)\.", r"vilt.embeddings.\1."),
    (r"^pooler\.", "vilt.pooler."),
    (r"^(vqa|nlvr2)_classifier\.", "classifier."),
    (r"^mlm_score\.bias$", "mlm_score.decoder.bias"),
)
_FUSED = re.compile(r"(.*\.attn\.)qkv(\..*)")
_POSITION_IDS = "text_embeddings.position_ids"  # 0, 1, 2, ...: stored by old transformers, no weight
_MODALITIES = "vilt.embeddings.token_type_embeddings.weight"
_MATCH = "itm_score.fc."
_HEADS = ("classifier.", "rank_output.", "mlm_score.", "itm_score.")
# UNITER, LXMERT and ViLT publish the same 3129 VQA answers in different orders, and no weight file names them.
_ORDER = "classifier.* is loaded: its rows must be in the order of this task's answers, which the file does not name"

_PRUNED = re.compile(
    r"vilt\.encoder\.layer\.\d+\.(attention\.attention\.(query|key|value)|(attention\.output|intermediate|output)\.dense)"
    r"\.weight"
)
_REASONS = (
    # The first pattern that is found in a name gives the reason why the policy leaves that parameter alone.
    (re.compile(r"^(?!vilt\.)"), "task head: made anew for every task, never masked"),
    (re.compile(r"(LayerNorm|layernorm\w*)\."), "LayerNorm: few weights, each scales a whole channel"),
    (re.compile(r"bias$"), "bias: few weights, no matrix to make sparse"),
    (re.compile(r"patch_embeddings\."), "input projection of the patches: not part of the blocks"),
    (re.compile(r"embeddings|cls_token"), "embedding: looked up, not multiplied"),
    (re.compile(r"pooler\."), "pooler: not part of the blocks, which are all that is pruned in ViLT"),
)


class ViltForPretraining(ViltForMaskedLM):  # type: ignore[misc]
    """The masked-word head of transformers and, beside it, ViLT's image-text matching head."""

    def __init__(self, config: ViltConfig) -> None:
        super().__init__(config)
        self.itm_score = nn.ModuleDict({"fc": nn.Linear(config.hidden_size, 2)})


_CLASSES: dict[HeadKind, type[nn.Module]] = {
    "answers": ViltForQuestionAnswering,
    "pair": ViltForImagesAndTextClassification,
    "match": ViltForImageAndTextRetrieval,
    "pretraining": ViltForPretraining,
}
_OWN_CONFIG: dict[HeadKind, Config] = {"pair": {"num_images": 2, "modality_type_vocab_size": 3, "num_labels": 2}}


@dataclass(frozen=True)
class Encoded:
    """What the backbone makes of a batch.

    Attributes:
        text: [B, T, H].
        image: [B, 1 + P, H]: the image's own [CLS], then its patches, row by row; what pads it comes last.
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


def encode(model: nn.Module, inputs: Mapping[str, Tensor], *, modality: int = 1) -> Encoded:
    """Run the whole backbone on one image for each text.

    Args:
        model: a model of this family.
        inputs: input_ids int64 [B, T]; pixel_values float [B, 3, height, width]; optionally attention_mask [B, T] and
            pixel_mask [B, height, width] (bool or int64, 1 = picture, which lies in the upper left corner).
        modality: row of the modality table for the image: 1, or 2 for the second image (NLVR2).
    """
    backbone: Any = model.vilt
    tokens = _embed(backbone.embeddings, inputs, modality)
    values_BSH = tokens.values
    for layer in backbone.encoder.layer:
        values_BSH = _block(layer, values_BSH, values_BSH, tokens.mask)
    values_BSH = backbone.layernorm(values_BSH)
    text, image = values_BSH[:, : tokens.words], values_BSH[:, tokens.words :]
    return Encoded(text, image, tokens.image_mask, backbone.pooler(values_BSH))


def pooled(model: nn.Module, inputs: Mapping[str, Tensor], *, modality: int = 1) -> Tensor:
    """Give `encode(model, inputs).pooled` [B, H], computing the first word alone in the last block.

    The pooler reads nothing else; the last block still looks at every token for it.
    """
    backbone: Any = model.vilt
    tokens = _embed(backbone.embeddings, inputs, modality)
    values_BSH = tokens.values
    *layers, last = backbone.encoder.layer
    for layer in layers:
        values_BSH = _block(layer, values_BSH, values_BSH, tokens.mask)
    first_B1H = _block(last, values_BSH[:, :1], values_BSH, tokens.mask)
    result: Tensor = backbone.pooler(backbone.layernorm(first_B1H))
    return result


def canonical(tensors: Mapping[str, Tensor]) -> Tensors:
    """Give tensors of an official file under transformers' names, query, key and value apart.

    The official code keeps the three in one matrix "attn.qkv" of [3H, H], rows of the query first. Anything of that
    shape is split: weights, biases, gradients, masks. Names that are transformers' already stay as they are.

    Raises:
        VlcompressError: a fused matrix whose rows do not divide by three, two names that become one.
    """
    split: Tensors = {}
    for name, tensor in tensors.items():
        if match := _FUSED.fullmatch(name):
            if tensor.shape[0] % 3:
                raise VlcompressError(
                    f"'{name}' has {tensor.shape[0]} rows: query, key and value are three equal parts"
                )
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[f"{match[1]}{part}{match[2]}"] = rows
        elif not name.endswith(_POSITION_IDS):
            split[name] = tensor
    return renamed(split, OFFICIAL_NAMES)


def canonical_masks(tensors: Mapping[str, Tensor]) -> Tensors:
    """Give masks over an official model (1 = keep; with or without PyTorch's suffix "_mask") as `Masks` takes them.

    Raises:
        VlcompressError: as `canonical`, or a mask that holds something else than 0 and 1.
    """
    for name, mask in tensors.items():
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise VlcompressError(f"mask '{name}' holds numbers other than 0 and 1: give masks, 1 = keep")
    return canonical({name.removesuffix("_mask"): mask.bool() for name, mask in tensors.items()})


class ViltFamily:
    """ViLT as the toolchain sees it (see `vlcompress.models.base.Family`)."""

    name = "vilt"
    sizes = tuple(_SIZES)
    heads: tuple[HeadKind, ...] = ("answers", "pair", "match", "pretraining")
    reads: Literal["regions", "pixels"] = "pixels"
    backbone_prefix = "vilt."

    def config(self, size: str, *, vocab_size: int, feature_dim: int = 0) -> Config:
        """Give the configuration of a named size, in the keys of a Hugging Face config.json.

        Args:
            size: "tiny", "small" or "base".
            vocab_size: word pieces of the tokenizer.
            feature_dim: not used: ViLT reads pixels.

        Raises:
            VlcompressError: unknown size.
        """
        if size not in _SIZES:
            raise unknown("size of vilt", size, _SIZES)
        common = {
            "vocab_size": vocab_size,
            "max_position_embeddings": _WORDS,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.0,
            "layer_norm_eps": 1e-6,
        }
        return {"model_type": "vilt", **common, **_SIZES[size]}

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """Make a model with fresh weights (normal, 0.02), the same for the same seed, float32, on the CPU.

        Raises:
            VlcompressError: an unknown kind of head, no answers, or a configuration that fits no model.
        """
        model = self.skeleton(config, head)
        materialise(model, seed=seed)
        return model

    def skeleton(self, config: Config, head: Head) -> nn.Module:
        """Make the model of `build` on the meta device: names and shapes without weights."""
        if head.kind not in _CLASSES:
            raise unknown("kind of head", head.kind, _CLASSES)
        if head.kind == "answers" and not head.labels:
            raise VlcompressError("the answer head has no labels: give at least one answer")
        plain = {name: value for name, value in config.items() if name != "model_type"}
        own = _OWN_CONFIG.get(head.kind, {"num_labels": len(head.labels)} if head.labels else {})
        try:
            make: Any = _CLASSES[head.kind]
            model = skeleton(lambda: make(ViltConfig(**plain | own)))
        except ValueError as error:
            raise VlcompressError(f"this configuration makes no ViLT model: {error}") from error
        _follow_the_original(model)
        return model

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load a checkpoint strictly; a head of another task is the one allowed difference, and is reported.

        A modality table of two rows becomes one of three for NLVR2 (the second image starts as the first), and a
        matching head without a checkpoint of its own takes the "matched" row of ITM, both as in the official code.

        Args:
            model: as made by `build`.
            checkpoint: a Hugging Face folder or hub name, a .safetensors file with either side's names, or an official
                Lightning checkpoint (``vilt_200k_mlm_itm.ckpt``, ``vilt_vqa.ckpt``, ...).
            fresh_head: leave the model's head alone even where the checkpoint's would fit.

        Raises:
            VlcompressError: an unreadable file; missing, unexpected or misshapen tensors, by name.
        """
        tensors = _grown(canonical(read_checkpoint(checkpoint)), model)
        if fresh_head:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEADS)}
        tensors, notes = _with_rank(tensors, model)
        report = load_strictly(model, tensors, source=checkpoint, heads=_HEADS)
        if fresh_head:
            return replace(report, notes=("the task head stays fresh, as asked",))
        if report.head == "loaded" and isinstance(model, ViltForQuestionAnswering):
            notes = (*notes, _ORDER)
        return replace(report, notes=(*report.notes, *notes))

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name what IMP prunes: "bert-tickets" is every linear of the transformer blocks.

        Query, key, value and output projections and both feed-forward projections. The fused projection of the
        official code holds the same weights, and a cut over all of them together is the same either way.

        Raises:
            VlcompressError: unknown policy.
        """
        if policy != "bert-tickets":
            raise unknown("pruning policy", policy, ["bert-tickets"])
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        names = tuple(name for name in sizes if _PRUNED.fullmatch(name))
        excluded = {name: _reason(name) for name in sizes if not _PRUNED.fullmatch(name)}
        backbone = sum(size for name, size in sizes.items() if name.startswith(self.backbone_prefix))
        return Prunable(names, excluded, sum(sizes[name] for name in names), backbone)

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List every attention head and feed-forward neuron, by the sizes that the modules have now."""
        modules = dict(model.named_modules())
        heads = (_heads(name, module) for name, module in modules.items() if isinstance(module, Attention))
        return [*heads, *_neurons(modules)]

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Give the same pictures resized as the official code does for a model of this size."""
        return Resized(source, shorter=config["image_size"], multiple=config["patch_size"])

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad texts to the longest and pictures, at their lower and right edges, to the highest and widest.

        Returns:
            input_ids int64 [B, T], attention_mask int64 [B, T], pixel_values float32 [B, 3, height, width] in -1..1
            (0 where padded), pixel_mask bool [B, height, width]; for samples of two images both with an axis of 2
            after B.
        """
        words_BT = pad_sequence([torch.from_numpy(sample.ids) for sample in samples], batch_first=True)
        mask_BT = pad_sequence([torch.ones(len(sample.ids), dtype=torch.int64) for sample in samples], batch_first=True)
        pictures = _pictures([image for sample in samples for image in sample.images])
        if len(samples[0].images) == 2:
            pictures = {name: value.view(-1, 2, *value.shape[1:]) for name, value in pictures.items()}
        return {"input_ids": words_BT, "attention_mask": mask_BT, **pictures}

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs; every sentence and every picture but the first is padded by a random amount.

        Returns:
            input_ids and attention_mask int64 [batch, text]; pixel_values float32 [batch, 3, image_size, width] in
            -1..1, `regions` patches wide; pixel_mask bool [batch, image_size, width].
        """
        generator = torch.Generator().manual_seed(seed)
        patch, height = config["patch_size"], config["image_size"]
        words = torch.randint(1, config["vocab_size"], (batch, text), generator=generator)
        lengths = torch.randint(1, text + 1, (batch,), generator=generator)
        columns = torch.randint(1, regions + 1, (batch,), generator=generator)
        lengths[0], columns[0] = text, regions
        mask = (torch.arange(text) < lengths[:, None]).long()
        pixel_mask = (torch.arange(regions * patch) < columns[:, None, None] * patch).repeat(1, height, 1)
        pixels = torch.rand(batch, 3, height, regions * patch, generator=generator) * 2 - 1
        return {
            "input_ids": words * mask,
            "attention_mask": mask,
            "pixel_values": pixels * pixel_mask[:, None],
            "pixel_mask": pixel_mask,
        }

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes that may vary: batch, text, and the pictures' height and width (multiples of the patch)."""
        words = {0: "batch", 1: "text"}
        return {
            "input_ids": words,
            "attention_mask": words,
            "pixel_values": {0: "batch", 2: "height", 3: "width"},
            "pixel_mask": {0: "batch", 1: "height", 2: "width"},
        }

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give the head's scores, float32; for the inputs see `encode` (NLVR2's have an axis of 2 after B).

        Returns:
            [B, labels] (answers), [B, 2] (pair), [B] (match).
        """
        parts: Any = model
        scores: Tensor
        if isinstance(model, ViltForImagesAndTextClassification):
            both = [pooled(model, _image(inputs, index), modality=index + 1) for index in range(2)]
            scores = parts.classifier(torch.cat(both, dim=1))
        elif isinstance(model, ViltForImageAndTextRetrieval):
            scores = parts.rank_output(pooled(model, inputs))[:, 0]
        else:
            scores = parts.classifier(pooled(model, inputs))
        return scores


def _block(layer: Any, asking: Tensor, x_BSH: Tensor, mask: Tensor | None) -> Tensor:
    """Give a block's output for the tokens `asking` [B, ?, H], the first ones of `x_BSH`, which look at all of them."""
    seen_BSH = layer.layernorm_before(x_BSH)
    (context,) = layer.attention.attention(seen_BSH[:, : asking.shape[1]], seen_BSH, mask)
    attended = asking + layer.attention.output(context, asking)
    inner = layer.intermediate(layer.layernorm_after(attended))
    inner = dropout(inner, layer.output.dropout.p, layer.training)  # timm's Mlp has it here too, transformers does not
    result: Tensor = layer.output(inner, attended)
    return result


def _embed(embeddings: Any, inputs: Mapping[str, Tensor], modality: int) -> _Tokens:
    text_BTH = _text(embeddings.text_embeddings, inputs["input_ids"])
    image_BPH, image_mask_BP = _image_tokens(embeddings, inputs["pixel_values"], inputs.get("pixel_mask"))
    modalities = embeddings.token_type_embeddings.weight
    values = torch.cat([text_BTH + modalities[0], image_BPH + modalities[modality]], dim=1)
    words = inputs.get("attention_mask")
    if words is None and "pixel_mask" not in inputs:
        return _Tokens(values, None, image_mask_BP, text_BTH.shape[1])
    words_BT = torch.ones_like(inputs["input_ids"]).bool() if words is None else words.bool()
    hidden_BS = 1 - torch.cat([words_BT, image_mask_BP], dim=1).to(values.dtype)
    mask = (hidden_BS * torch.finfo(values.dtype).min)[:, None, None, :]  # added to the scores, as transformers does
    return _Tokens(values, mask, image_mask_BP, text_BTH.shape[1])


def _text(embeddings: Any, ids_BT: Tensor) -> Tensor:
    words = embeddings.word_embeddings(ids_BT) + embeddings.token_type_embeddings.weight[0]
    places = embeddings.position_embeddings.weight[: ids_BT.shape[1]]
    result: Tensor = embeddings.dropout(embeddings.LayerNorm(words + places))
    return result


def _image_tokens(embeddings: Any, pixels: Tensor, pixel_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Give the image's tokens [B, 1 + P, H], its [CLS] first, and which of them are the picture's, bool [B, 1 + P]."""
    projection = embeddings.patch_embeddings.projection
    patches = conv2d(pixels, projection.weight, projection.bias, projection.stride)
    rows, columns = patches.shape[2:]
    first, table = embeddings.position_embeddings[:, :1], embeddings.position_embeddings[0, 1:]
    if pixel_mask is None:
        visible = torch.ones(pixels.shape[0], rows, columns, dtype=torch.bool, device=pixels.device)
    else:  # a patch belongs to the picture if its first pixel does
        step, across = projection.stride
        visible = pixel_mask[:, ::step, ::across][:, :rows, :columns].bool()
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
    """Give the share [B, length, side] that each of `side` entries has in each place, spread over `counts` places."""
    scale_B = (side - 1) / (counts_B - 1).clamp(min=1).to(like.dtype)
    places = torch.arange(length, device=like.device, dtype=like.dtype)
    entries = torch.arange(side, device=like.device, dtype=like.dtype)
    where_BL = (places * scale_B[:, None]).clamp(max=side - 1)  # beyond the picture nothing looks
    return relu(1 - (where_BL[:, :, None] - entries).abs())


def _packed(values_BPH: Tensor, visible_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding behind the picture and cut what pads every picture; order is kept. Not done in exported graphs."""
    if torch.compiler.is_exporting() or bool(visible_BP.all()):
        return values_BPH, visible_BP
    most = int(visible_BP.sum(1).max())
    order_BP = visible_BP.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    index = order_BP[:, :, None].expand(-1, -1, values_BPH.shape[2])
    return values_BPH.gather(1, index), visible_BP.gather(1, order_BP)


def _image(inputs: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    pictures = {name: value[:, index] for name, value in inputs.items() if name.startswith("pixel_")}
    return dict(inputs) | pictures


def _pictures(images: Sequence[Any]) -> dict[str, Tensor]:
    sizes = [image.shape[:2] for image in images]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    pixels = torch.zeros(len(images), 3, height, width)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        pixels[row, :, : image.shape[0], : image.shape[1]] = torch.from_numpy(normalized(image)).permute(2, 0, 1)
        mask[row, : image.shape[0], : image.shape[1]] = True
    return {"pixel_values": pixels, "pixel_mask": mask}


def _follow_the_original(model: nn.Module) -> None:
    parts: Any = model
    parts.vilt.embeddings.text_embeddings.LayerNorm.eps = _TEXT_EPS
    if isinstance(model, ViltForPretraining):
        parts.mlm_score.transform.LayerNorm.eps = _TEXT_EPS
    for layer in parts.vilt.encoder.layer:
        layer.attention.attention = Attention(layer.attention.attention)


def _grown(tensors: Tensors, model: nn.Module) -> Tensors:
    """Give the modality table the rows that the model has: the second image starts as the first."""
    table, wanted = tensors.get(_MODALITIES), model.state_dict()[_MODALITIES]
    if table is None or (table.shape[0], wanted.shape[0]) != (2, 3):
        return tensors
    return tensors | {_MODALITIES: torch.cat([table, table[1:]])}


def _with_rank(tensors: Tensors, model: nn.Module) -> tuple[Tensors, tuple[str, ...]]:
    """Start a ranking head that the checkpoint lacks from the "matched" row of its image-text matching head."""
    has_rank = any(name.startswith("rank_output.") for name in tensors)
    if not isinstance(model, ViltForImageAndTextRetrieval) or has_rank or f"{_MATCH}weight" not in tensors:
        return tensors, ()
    rank = {f"rank_output.{part}": tensors[f"{_MATCH}{part}"][1:] for part in ("weight", "bias")}
    return tensors | rank, ("rank_output.* starts from the row of matched pairs of itm_score.fc",)


def _reason(name: str) -> str:
    return next(reason for pattern, reason in _REASONS if pattern.search(name))


def _heads(name: str, attention: Attention) -> Coupling:
    layer = name.rpartition(".")[0]
    return Coupling(
        kind="head",
        producers=tuple(f"{name}.{part}.weight" for part in ("query", "key", "value")),
        consumer=f"{layer}.output.dense.weight",
        units=attention.num_attention_heads,
        unit_size=attention.attention_head_size,
        constant_from=f"{name}.value.weight",
        owner=name,
    )


def _neurons(modules: Mapping[str, nn.Module]) -> Iterator[Coupling]:
    for name, module in modules.items():
        if name.endswith(".intermediate"):
            up: Any = module
            producer = f"{name}.dense.weight"
            yield Coupling(
                kind="neuron",
                producers=(producer,),
                consumer=f"{name.removesuffix('.intermediate')}.output.dense.weight",
                units=up.dense.out_features,
                unit_size=1,
                constant_from=producer,
            )

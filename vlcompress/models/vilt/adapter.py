"""ViLT as a family: sizes, heads, checkpoints, what is pruned, batches. The numbers are in `vilt.model`.

Shapes: B batch, T words.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
)

from vlcompress.data.examples import Pictures
from vlcompress.data.pixels import HALF, Resized, longest_side
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Head, HeadKind, LoadReport
from vlcompress.models.batches import random_mask, random_text
from vlcompress.models.building import left_and_right
from vlcompress.models.checkpoints import (
    Tensors,
    load_strictly,
    new_head,
    rank_from_matching,
    read_checkpoint,
    renamed,
    without_heads,
)
from vlcompress.models.hub import HubForm, hub_form, labelled, scaling
from vlcompress.models.labels import in_answer_order
from vlcompress.models.transformer_layout import TransformerFamily, bert_size
from vlcompress.models.vilt.batches import collate
from vlcompress.models.vilt.model import MAX_WORDS, TEXT_EPS, ViltForPretraining, follow_the_original, pooled
from vlcompress.models.vilt.pretraining import PRETRAINING

_COMMON: Config = {
    "max_position_embeddings": MAX_WORDS,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-6,
}
_SIZES: dict[str, Config] = {
    # tiny is for tests, small for the built-in pictures (128 x 96, taken as they are), base is the published model.
    "tiny": bert_size(32, 4, 64, num_hidden_layers=2, image_size=48, patch_size=16, **_COMMON),
    "small": bert_size(  # without dropout, as LXMERT's small
        128, 4, 512, num_hidden_layers=5, image_size=96, patch_size=16, dropout=0.0, **_COMMON
    ),
    "base": bert_size(768, 12, 3072, num_hidden_layers=12, image_size=384, patch_size=32, **_COMMON),
}
OFFICIAL_NAMES = (
    # dandelin/ViLT to transformers, for regular-expression substitution in this order; see `canonical` for q, k, v.
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
_WORDS = "vilt.embeddings.text_embeddings.word_embeddings.weight"
_DECODER = "mlm_score.decoder.weight"
_MATCH = "itm_score.fc."
_HEADS = ("classifier.", "rank_output.", "mlm_score.", "itm_score.")
_LABELS = "classifier.3."
_BICUBIC = 3  # Pillow's number
_CLASSES: dict[HeadKind, type[nn.Module]] = {
    "answers": ViltForQuestionAnswering,
    "pair": ViltForImagesAndTextClassification,
    "match": ViltForImageAndTextRetrieval,
    "pretraining": ViltForPretraining,
}
_OWN_CONFIG: dict[HeadKind, Config] = {"pair": {"num_images": 2, "modality_type_vocab_size": 3, "num_labels": 2}}


def canonical(tensors: Mapping[str, Tensor]) -> Tensors:
    """Put tensors of an official file under transformers' names, query, key and value apart.

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


class ViltFamily(TransformerFamily):
    """ViLT as the toolchain sees it."""

    name = "vilt"
    title = "ViLT"
    sizes = _SIZES
    heads: ClassVar[tuple[HeadKind, ...]] = ("answers", "pair", "match", "pretraining")
    tasks = ("vqa", "nlvr2", "retrieval", "pretraining")
    reads = "pixels"
    backbone_prefix = "vilt."
    hub_name = "dandelin/vilt-b32-mlm"
    longest_text = MAX_WORDS
    inherited = ("rank_output.",)
    retrieval = "false-texts"
    pretraining = PRETRAINING
    pruned = re.compile(
        r"vilt\.encoder\.layer\.\d+\."
        r"(attention\.attention\.(query|key|value)|(attention\.output|intermediate|output)\.dense)\.weight"
    )
    """The fused projection of the official code holds the same weights as query, key and value here, and a cut over all
    of them together is the same either way."""
    collate = staticmethod(collate)

    def config(self, size: str, *, vocab_size: int, feature_dim: int = 0) -> Config:
        """See `Family.config`."""
        return self.sized(size) | {"vocab_size": vocab_size}

    def construct(self, config: Config, head: Head) -> nn.Module:
        """Make transformers' model, and have it follow the original."""
        own = _OWN_CONFIG.get(head.kind, {"id2label": dict(enumerate(head.labels))} if head.labels else {})
        make: Any = _CLASSES[head.kind]
        model: nn.Module = make(ViltConfig(**config | own))
        follow_the_original(model)
        return model

    def canonical(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Family.canonical`."""
        return canonical(tensors)

    def hub_form(self, config: Config, head: Head, weights: Mapping[str, Tensor]) -> HubForm:
        """See `Family.hub_form`.

        transformers has one LayerNorm epsilon for all: the text's, as in its own conversions of the official files. The
        blocks' is then too small by 1e-6, which is below rounding in a trained model.
        """
        kind = ViltForMaskedLM if head.kind == "pretraining" else _CLASSES[head.kind]
        tied = {"tie_word_embeddings": False} if head.kind == "pretraining" else {}
        own = ViltConfig(
            **config | _OWN_CONFIG.get(head.kind, labelled(head.labels)) | tied | {"layer_norm_eps": TEXT_EPS}
        )
        said = self.preprocessing(config)
        picture = {
            **scaling(said["mean"], said["std"]),
            "image_processor_type": "ViltImageProcessor",
            "size": {"shortest_edge": said["shorter"]},
            "size_divisor": said["multiple"],
            "resample": _BICUBIC,
            "do_pad": True,
        }
        return hub_form(kind, own, weights, picture=picture)

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """See `Family.load`; official files are Lightning checkpoints (``vilt_200k_mlm_itm.ckpt``, ``vilt_vqa.ckpt``).

        Answers named beside the checkpoint are put into this model's order. A modality table of two rows becomes one of
        three for NLVR2 (the second image starts as the first), and a ranking head without a checkpoint of its own takes
        the "matched" row of the matching head, both as in the official code.
        """
        tensors = _grown(canonical(read_checkpoint(checkpoint)), model)
        if fresh_head:
            kept = (_MATCH,) if isinstance(model, ViltForImageAndTextRetrieval) else ()
            tensors = without_heads(tensors, _HEADS, kept)
        tensors, started = rank_from_matching(tensors, model, _MATCH)
        tensors, untied = _untied(tensors, model)
        started += untied
        order: tuple[str, ...] = ()
        if isinstance(model, ViltForQuestionAnswering):
            mine = tuple(model.config.id2label.values())
            tensors, order = in_answer_order(tensors, model, _LABELS, mine=mine, source=checkpoint)
        report = load_strictly(model, tensors, source=checkpoint, heads=_HEADS)
        if fresh_head:
            return new_head(report, *started)
        return replace(report, notes=(*report.notes, *started, *order))

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Resize as the official code does for a model of this size."""
        return Resized(source, shorter=config["image_size"], multiple=config["patch_size"])

    def preprocessing(self, config: Config) -> Config:
        """Add the resize and the range of values."""
        shorter = config["image_size"]
        sides = {"shorter": shorter, "longest": longest_side(shorter), "multiple": config["patch_size"]}
        return super().preprocessing(config) | sides | {"filter": "bicubic", "mean": [*HALF], "std": [*HALF]}

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs; every sentence and every picture but the first is padded by a random amount.

        Returns:
            input_ids and attention_mask int64 [batch, text]; pixel_values float32 [batch, 3, image_size, width] in
            -1..1, `regions` patches wide; pixel_mask bool [batch, image_size, width].
        """
        generator = torch.Generator().manual_seed(seed)
        patch, height = config["patch_size"], config["image_size"]
        words = random_text(config["vocab_size"], batch, text, generator)
        columns = random_mask(batch, regions, generator)
        pixel_mask = columns.bool().repeat_interleave(patch, dim=1)[:, None].repeat(1, height, 1)
        pixels = torch.rand(batch, 3, height, regions * patch, generator=generator) * 2 - 1
        return {**words, "pixel_values": pixels * pixel_mask[:, None], "pixel_mask": pixel_mask}

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
        """Compute the head's scores, float32; for the inputs see `encode` (NLVR2's are two rows a statement).

        Returns:
            [B, labels] (answers), [B / 2, 2] (pair), [B] (match).
        """
        parts: Any = model
        scores: Tensor
        if isinstance(model, ViltForImagesAndTextClassification):
            scores = parts.classifier(torch.cat(left_and_right(pooled(model, inputs)), dim=1))
        elif isinstance(model, ViltForImageAndTextRetrieval):
            scores = parts.rank_output(pooled(model, inputs))[:, 0]
        else:
            scores = parts.classifier(pooled(model, inputs))
        return scores


def _untied(tensors: Tensors, model: nn.Module) -> tuple[Tensors, tuple[str, ...]]:
    """Give the word head its own weights where transformers saved a model that ties them to the word embeddings."""
    if not isinstance(model, ViltForPretraining) or _DECODER in tensors or "mlm_score.decoder.bias" not in tensors:
        return tensors, ()
    note = f"{_DECODER} starts from the word embeddings, to which the file ties it"
    return tensors | {_DECODER: tensors[_WORDS]}, (note,)


def _grown(tensors: Tensors, model: nn.Module) -> Tensors:
    """Give the modality table the rows that the model has: the second image starts as the first."""
    table, wanted = tensors.get(_MODALITIES), model.state_dict()[_MODALITIES]
    if table is None or (table.shape[0], wanted.shape[0]) != (2, 3):
        return tensors
    return tensors | {_MODALITIES: torch.cat([table, table[1:]])}

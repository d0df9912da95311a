"""ViLT as a family: names, checkpoints, what is pruned, batches. See `vlcompress.models.vilt.model` for the numbers.

Shapes: B batch, T words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForQuestionAnswering,
)

from vlcompress.data.examples import Pictures
from vlcompress.data.pixels import Resized, normalized
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.attention import Attention
from vlcompress.models.base import Config, Coupling, Head, HeadKind, LoadReport, Prunable, Sample
from vlcompress.models.building import left_and_right, materialise, skeleton
from vlcompress.models.checkpoints import Tensors, load_strictly, read_checkpoint, renamed
from vlcompress.models.labels import SIDE_FILE, labels_of, permuted
from vlcompress.models.transformer_layout import head_coupling, prunable_where
from vlcompress.models.vilt.model import ViltForPretraining, follow_the_original, pooled

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
_LABELS = "classifier.3."
# UNITER, LXMERT and ViLT publish the same 3129 VQA answers in different orders, and no weight file names them.
_ORDER = (
    "classifier.* is loaded: its rows must be in the order of this task's answers, which the file does not name; "
    f"put a {SIDE_FILE} beside it to have them ordered"
)

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


_CLASSES: dict[HeadKind, type[nn.Module]] = {
    "answers": ViltForQuestionAnswering,
    "pair": ViltForImagesAndTextClassification,
    "match": ViltForImageAndTextRetrieval,
    "pretraining": ViltForPretraining,
}
_OWN_CONFIG: dict[HeadKind, Config] = {"pair": {"num_images": 2, "modality_type_vocab_size": 3, "num_labels": 2}}


def canonical(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return tensors of an official file under transformers' names, query, key and value apart.

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
    """Return masks over an official model (1 = keep; with or without PyTorch's suffix "_mask") as `Masks` takes them.

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
    inherited: tuple[str, ...] = ("rank_output.",)

    def config(self, size: str, *, vocab_size: int, feature_dim: int = 0) -> Config:
        """Return the configuration of a named size, in the keys of a Hugging Face config.json.

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
        own = _OWN_CONFIG.get(head.kind, {"id2label": dict(enumerate(head.labels))} if head.labels else {})
        try:
            make: Any = _CLASSES[head.kind]
            model = skeleton(lambda: make(ViltConfig(**plain | own)))
        except ValueError as error:
            raise VlcompressError(f"this configuration makes no ViLT model: {error}") from error
        follow_the_original(model)
        return model

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load a checkpoint strictly; a head of another task is the one allowed difference, and is reported.

        An answer head whose labels are named beside it is put into this model's order (`vlcompress.models.labels`).
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
            # The ranking head starts from the matching head.
            kept = (_MATCH,) if isinstance(model, ViltForImageAndTextRetrieval) else ()
            tensors = {n: one for n, one in tensors.items() if not n.startswith(_HEADS) or n.startswith(kept)}
        tensors, notes = _with_rank(tensors, model)
        tensors, more = _in_order(tensors, model, checkpoint)
        report = load_strictly(model, tensors, source=checkpoint, heads=_HEADS)
        if fresh_head:
            return replace(report, head="fresh", notes=("the task head stays fresh, as asked", *notes))
        return replace(report, notes=(*report.notes, *notes, *more))

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name what IMP prunes: "bert-tickets" is every linear of the transformer blocks.

        Query, key, value and output projections and both feed-forward projections. The fused projection of the
        official code holds the same weights, and a cut over all of them together is the same either way.

        Raises:
            VlcompressError: unknown policy.
        """
        if policy != "bert-tickets":
            raise unknown("pruning policy", policy, ["bert-tickets"])
        return prunable_where(model, lambda name: _PRUNED.fullmatch(name) is not None, _reason, self.backbone_prefix)

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List every attention head and feed-forward neuron, by the sizes that the modules have now."""
        modules = dict(model.named_modules())
        heads = (head_coupling(name, module) for name, module in modules.items() if isinstance(module, Attention))
        return [*heads, *_neurons(modules)]

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Return the same pictures resized as the official code does for a model of this size."""
        return Resized(source, shorter=config["image_size"], multiple=config["patch_size"])

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad texts to the longest and pictures, at their lower and right edges, to the highest and widest.

        A sample of two images is two rows, one after the other.

        Returns:
            input_ids int64 [B, T], attention_mask int64 [B, T], pixel_values float32 [B, 3, height, width] in -1..1
            (0 where padded), pixel_mask bool [B, height, width].
        """
        ids = [torch.from_numpy(sample.ids) for sample in samples for _ in sample.images]
        words_BT = pad_sequence(ids, batch_first=True)
        mask_BT = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        pictures = _pictures([image for sample in samples for image in sample.images])
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
        """Return the head's scores, float32; for the inputs see `encode` (NLVR2's are two rows a statement).

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


def _pictures(images: Sequence[Any]) -> dict[str, Tensor]:
    sizes = [image.shape[:2] for image in images]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    pixels = torch.zeros(len(images), 3, height, width)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        pixels[row, :, : image.shape[0], : image.shape[1]] = torch.from_numpy(normalized(image)).permute(2, 0, 1)
        mask[row, : image.shape[0], : image.shape[1]] = True
    return {"pixel_values": pixels, "pixel_mask": mask}


def _grown(tensors: Tensors, model: nn.Module) -> Tensors:
    """Return the modality table the rows that the model has: the second image starts as the first."""
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


def _in_order(tensors: Tensors, model: nn.Module, source: str) -> tuple[Tensors, tuple[str, ...]]:
    """Put the rows of an answer head into the model's order where the checkpoint's is known, and say where it is not.

    Raises:
        VlcompressError: the checkpoint answers with other labels.
    """
    rows, parts = f"{_LABELS}bias", cast(Any, model)
    if not isinstance(model, ViltForQuestionAnswering) or rows not in tensors:
        return tensors, ()
    if tensors[rows].shape != model.state_dict()[rows].shape:
        return tensors, ()  # the head stays fresh, and the report says so
    theirs = labels_of(source)
    if theirs is None:
        return tensors, (_ORDER,)
    mine = tuple(parts.config.id2label[row] for row in range(len(theirs)))
    return permuted(tensors, _LABELS, theirs=theirs, mine=mine, source=source), ()


def _reason(name: str) -> str:
    return next(reason for pattern, reason in _REASONS if pattern.search(name))


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

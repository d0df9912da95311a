"""UNITER (Chen et al., ECCV 2020) as a family: sizes, heads, checkpoints, batches.

Shapes: B batch, T words, R regions, F feature width.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vlcompress.data.examples import Pictures
from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.base import Config, Coupling, Head, HeadKind, LoadReport, Prunable, Sample
from vlcompress.models.building import materialise, skeleton
from vlcompress.models.checkpoints import Tensors, load_strictly, read_checkpoint, renamed
from vlcompress.models.labels import SIDE_FILE, labels_of, permuted
from vlcompress.models.language import knows_images
from vlcompress.models.transformer_layout import head_coupling, prunable_where
from vlcompress.models.uniter.heads import HEADS
from vlcompress.models.uniter.model import BOX_WIDTH, Intermediate, SelfAttention, UniterConfig

_SIZES: dict[str, Config] = {
    # tiny is for tests, small is of LXMERT small's scale, base and large are the published models.
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    },
    "small": {
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 128,
        "hidden_dropout_prob": 0.0,  # at this width 0.1 drowns what pre-training has to find
        "attention_probs_dropout_prob": 0.0,
    },
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    },
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 512,
    },
}

OFFICIAL_NAMES = (
    # ChenRocks/UNITER, BERT and a saved encoder to the names here, for substitution in this order.
    (r"^module\.", ""),  # saved from DataParallel
    (r"^bert\.", "uniter."),
    (r"^(embeddings|img_embeddings|encoder|pooler)\.", r"uniter.\1."),  # an encoder saved alone
    (r"\.gamma$", ".weight"),  # LayerNorm in files of 2018 and 2019
    (r"\.beta$", ".bias"),
)
_BERT_ONLY = re.compile(r"cls\.seq_relationship\..*|cls\.predictions\.decoder\.bias|uniter\.embeddings\.position_ids")
_HEADS = (
    "vqa_output.", "vcr_output.", "nlvr2_output.", "attn1.", "attn2.", "fc.", "attn_pool.", "re_output.",
    "rank_output.", "itm_output.", "cls.", "feat_regress.", "region_classifier.",
)  # fmt: skip
_IMAGE = "uniter.img_embeddings."
_LABELS = "vqa_output.3."  # the layer whose rows are the answers
_WORDS = "uniter.embeddings.word_embeddings.weight"
_TYPES = "uniter.embeddings.token_type_embeddings.weight"

_ORDER = f"vqa_output.* is loaded as it is: nothing says the order of its answers; put its {SIDE_FILE} beside it"
_BERT = "uniter.img_embeddings.* stays fresh: the checkpoint knows no images (the paper's BERT-init control)"
_RANK = "rank_output.* starts from row 1 of itm_output, as officially"

_PRUNED = re.compile(
    r"uniter\.(encoder\.layer\.\d+\."
    r"(attention\.self\.(query|key|value)|(attention\.output|intermediate|output)\.dense)|pooler\.dense)\.weight"
)
_REASONS = (
    # The first pattern that is found in a name gives the reason why the policy leaves that parameter alone.
    (re.compile(r"^(?!uniter\.)"), "task head: made anew for every task, never masked"),
    (re.compile(r"(LayerNorm|layer_norm)\."), "LayerNorm: few weights, each scales a whole channel"),
    (re.compile(r"bias$"), "bias: few weights, no matrix to make sparse"),
    (re.compile(r"(img|pos)_linear\."), "input projection of region features and boxes: not part of the encoder"),
    (re.compile(r"embeddings?\."), "embedding: looked up, not multiplied"),
)


@dataclass(frozen=True)
class _Growth:
    """What a kind of head adds to the embedding tables.

    Attributes:
        types: rows of the type table.
        copied: the row that its new rows start as.
        words: rows added to the word table, with fresh weights.
    """

    types: int
    copied: int
    words: int = 0


PEOPLE = 81
"""Tokens that VCR adds to the vocabulary for the people and things in the image: ids vocab_size + 0 to 80."""

_GROWTH = {"pair": _Growth(types=3, copied=1), "choice": _Growth(types=4, copied=0, words=PEOPLE)}
_PEOPLE_SEED = 1 << 40  # a stream of their own: the backbone's numbers are the same with and without these rows


class UniterFamily:
    """UNITER as the toolchain sees it (see `vlcompress.models.base.Family`)."""

    name = "uniter"
    sizes = tuple(_SIZES)
    heads: tuple[HeadKind, ...] = ("answers", "pair", "choice", "region", "match", "pretraining")
    reads: Literal["regions", "pixels"] = "regions"
    backbone_prefix = "uniter."
    inherited: tuple[str, ...] = ("rank_output.",)
    language_names = re.compile(r"uniter\.(embeddings|encoder|pooler)\..*")

    def config(self, size: str, *, vocab_size: int, feature_dim: int, objects: int = 1601) -> Config:
        """Return the configuration of a named size, in the keys of a Hugging Face config.json.

        Args:
            size: "tiny", "small", "base" or "large".
            vocab_size: word pieces of the tokenizer (VCR's added tokens not counted).
            feature_dim: width of one region's features.
            objects: classes of the region detector (pre-training alone predicts them).

        Raises:
            VlcompressError: unknown size.
        """
        if size not in _SIZES:
            raise unknown("size of uniter", size, _SIZES)
        data = {"vocab_size": vocab_size, "visual_feat_dim": feature_dim, "num_object_labels": objects}
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        return {"model_type": "uniter", **dropout, **_SIZES[size], **data}

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """Make a model with BERT's fresh weights (normal, 0.02), the same for the same seed, float32, on the CPU.

        A head for NLVR2 or VCR brings more rows in the type table (and VCR's in the word table); the rest of the
        backbone is the same as under any other head.

        Raises:
            VlcompressError: an unknown kind or variant of head, no answers, or a configuration that fits no model.
        """
        model = self.skeleton(config, head)
        materialise(model, seed=seed)
        if head.kind in _GROWTH:
            _grow(model, _GROWTH[head.kind], seed)
        return model

    def skeleton(self, config: Config, head: Head) -> nn.Module:
        """Make the model of `build` on the meta device: names and shapes without weights or added rows."""
        if head.kind not in self.heads:
            raise unknown("kind of head", head.kind, self.heads)
        if (head.kind, head.variant) not in HEADS:
            variants = [variant for kind, variant in HEADS if kind == head.kind and variant]
            raise unknown(f"variant of uniter's head '{head.kind}'", head.variant, variants)
        if head.kind == "answers" and not head.labels:
            raise VlcompressError("the answer head has no labels: give at least one answer")
        plain = {name: value for name, value in config.items() if name != "model_type"}
        if plain["hidden_size"] % plain["num_attention_heads"]:
            raise VlcompressError(
                f"this configuration makes no UNITER model: hidden_size {plain['hidden_size']} is no multiple of "
                f"num_attention_heads {plain['num_attention_heads']}"
            )
        labels = {"id2label": dict(enumerate(head.labels))} if head.kind == "answers" else {}
        return skeleton(lambda: HEADS[head.kind, head.variant](UniterConfig(**plain, **labels)))

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load a checkpoint strictly; what may differ is reported.

        That is a head of another task, and the image embeddings where the checkpoint is a BERT. Rows that NLVR2 and
        VCR add to the tables start as in the official code; a rank head starts from row 1 of the matching head.

        Args:
            model: as made by `build`.
            checkpoint: an official ``uniter-base.pt`` or a fine-tuned ``model_step_N.pt`` (with any of the prefixes
                ``uniter.``, ``bert.``, ``module.``), a folder that transformers saved, a .safetensors file, or a BERT.
            fresh_head: leave the model's head alone even where the checkpoint's would fit (but see `Family.inherited`).

        Raises:
            VlcompressError: an unreadable file; missing, unexpected or misshapen tensors, by name; answers that are
                not this model's.
        """
        tensors = _known(renamed(read_checkpoint(checkpoint), OFFICIAL_NAMES))
        if fresh_head:
            tensors = _without_head(model, tensors)
        tensors, notes = _fitted(model, tensors, checkpoint)
        image = () if any(name.startswith(_IMAGE) for name in tensors) else (_IMAGE,)
        report = load_strictly(model, tensors, source=checkpoint, heads=(*_HEADS, *image))
        said = ("the task head stays fresh, as asked",) if fresh_head else report.notes
        said = tuple(note for note in said if not note.startswith(_IMAGE))
        head: Literal["loaded", "fresh"] = "fresh" if fresh_head else report.head
        return replace(report, head=head, notes=(*said, *([_BERT] if image else []), *notes))

    def load_language(self, model: nn.Module, checkpoint: str) -> LoadReport:
        """Load a BERT into text embeddings, encoder and pooler; image embeddings and head stay.

        Raises:
            VlcompressError: see `vlcompress.models.language.StartsFromLanguage`.
        """
        if any(name.startswith(_IMAGE) for name in renamed(read_checkpoint(checkpoint), OFFICIAL_NAMES)):
            raise knows_images(checkpoint)
        return self.load(model, checkpoint, fresh_head=True)

    def word_states(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the encoder's output [B, T, H] for a text with an image of no regions."""
        parts: Any = model
        tokens_BT = inputs["input_ids"]
        nothing = torch.zeros(len(tokens_BT), 0, parts.config.visual_feat_dim, device=tokens_BT.device)
        nowhere = torch.zeros(len(tokens_BT), 0, BOX_WIDTH, device=tokens_BT.device)
        result: Tensor = parts.hidden(**inputs, visual_feats=nothing, visual_pos=nowhere)
        return result

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name what IMP prunes: "bert-tickets" is every linear of the encoder and the pooler's.

        The policy is BERT-Tickets' (``LT_glue.py``), which Gan et al. (AAAI 2022) build on: query, key, value and
        output projections, both feed-forward projections, and the pooler.

        Raises:
            VlcompressError: unknown policy.
        """
        if policy != "bert-tickets":
            raise unknown("pruning policy", policy, ["bert-tickets"])
        return prunable_where(model, lambda name: _PRUNED.fullmatch(name) is not None, _reason, self.backbone_prefix)

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List every attention head and feed-forward neuron, by the sizes that the modules have now."""
        modules = dict(model.named_modules())
        heads = (head_coupling(name, module) for name, module in modules.items() if isinstance(module, SelfAttention))
        return [*heads, *_neurons(modules)]

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Return the same pictures: their region features were made beforehand."""
        return source

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad samples to the longest text and the most regions.

        Samples of two images make two rows each: text with the left image, then text with the right one.

        Returns:
            input_ids, attention_mask, token_type_ids int64 [B, T]; visual_feats float32 [B, R, F], visual_pos float32
            [B, R, 7], visual_attention_mask, visual_type_ids int64 [B, R]. The types are there for every head, so that
            an exported graph reads them wherever they matter (VCR's words, NLVR2's images of types 1 and 2). For two
            images B is twice the number of samples.
        """
        rows = [(sample, side, image) for sample in samples for side, image in enumerate(sample.images)]
        texts = [sample for sample, _, _ in rows]
        visual = _visual([_regions(image) for _, _, image in rows])
        sides_B = torch.tensor([side + 1 for _, side, _ in rows])
        return {
            "input_ids": _padded([one.ids for one in texts]),
            "attention_mask": _ones([one.ids for one in texts]),
            "token_type_ids": _padded([one.types for one in texts]),
            **visual,
            "visual_type_ids": sides_B[:, None].expand(visual["visual_pos"].shape[:2]).contiguous(),
        }

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs; every row but the first is padded by a random number of words and of regions.

        Returns:
            those of `collate`; features are 0 or more, types 0 or 1, which every head has.
        """
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(1, config["vocab_size"], (batch, text), generator=generator)
        mask, visual_mask = (_random_mask(batch, size, generator) for size in (text, regions))
        features = torch.rand(batch, regions, config["visual_feat_dim"], generator=generator)
        corners = torch.rand(batch, regions, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
        sizes = corners[..., 2:] - corners[..., :2]
        boxes = torch.cat([corners, sizes, sizes.prod(dim=-1, keepdim=True)], dim=-1)
        return {
            "input_ids": words * mask,
            "attention_mask": mask,
            "token_type_ids": torch.randint(2, (batch, text), generator=generator),
            "visual_feats": features * visual_mask[..., None],
            "visual_pos": boxes * visual_mask[..., None],
            "visual_attention_mask": visual_mask,
            "visual_type_ids": torch.randint(2, (batch, regions), generator=generator),
        }

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes that may vary: batch, text and regions."""
        words, regions = {0: "batch", 1: "text"}, {0: "batch", 1: "regions"}
        text = ("input_ids", "attention_mask", "token_type_ids")
        visual = ("visual_feats", "visual_pos", "visual_attention_mask", "visual_type_ids")
        return {**dict.fromkeys(text, words), **dict.fromkeys(visual, regions)}

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the head's scores float32 before any sigmoid or softmax; for the inputs see `UniterModel.forward`."""
        result: Tensor = model(**inputs)
        return result


def _known(tensors: Tensors) -> Tensors:
    """Leave out what a BERT has and UNITER has no use for."""
    return {name: tensor for name, tensor in tensors.items() if not _BERT_ONLY.fullmatch(name)}


def _without_head(model: nn.Module, tensors: Tensors) -> Tensors:
    """Leave out every head, but for the matching head where a ranking head is to start from it."""
    kept = ("itm_output.",) if "rank_output.weight" in model.state_dict() else ()
    return {name: one for name, one in tensors.items() if not name.startswith(_HEADS) or name.startswith(kept)}


def _fitted(model: nn.Module, tensors: Tensors, source: str) -> tuple[Tensors, list[str]]:
    """Return the tensors in the shapes and the order of the model, with notes on what was done."""
    tensors, notes = _lengthened(model, tensors)
    own = model.state_dict()
    if "rank_output.weight" in own and "itm_output.weight" in tensors and "rank_output.weight" not in tensors:
        tensors = tensors | {f"rank_output.{part}": tensors[f"itm_output.{part}"][1:] for part in ("weight", "bias")}
        notes.append(_RANK)
    rows = f"{_LABELS}bias"
    if rows in own and rows in tensors and own[rows].shape == tensors[rows].shape:
        theirs, mine = labels_of(source), _labels(model)
        if theirs is None:
            notes.append(_ORDER)
        else:
            tensors = permuted(tensors, _LABELS, theirs=theirs, mine=mine, source=source)
    return tensors, notes


def _lengthened(model: nn.Module, tensors: Tensors) -> tuple[Tensors, list[str]]:
    """Add the rows that the model's head needs to the tables of a checkpoint that was made without them."""
    own = model.state_dict()
    growth = next((one for one in _GROWTH.values() if one.types == len(own[_TYPES])), None)
    if growth is None:
        return tensors, []
    longer: Tensors = {}
    if _TYPES in tensors and len(tensors[_TYPES]) == 2:
        longer[_TYPES] = _more_types(tensors[_TYPES], growth)
    if growth.words and _WORDS in tensors and len(own[_WORDS]) - len(tensors[_WORDS]) == growth.words:
        longer[_WORDS] = torch.cat([tensors[_WORDS], own[_WORDS][-growth.words :].to(tensors[_WORDS].dtype)])
    notes = [
        f"{name}: the {len(longer[name]) - len(tensors[name])} rows that the head needs are added" for name in longer
    ]
    return tensors | longer, notes


def _more_types(table_VH: Tensor, growth: _Growth) -> Tensor:
    return torch.cat([table_VH, table_VH[growth.copied].expand(growth.types - len(table_VH), -1)])


def _grow(model: nn.Module, growth: _Growth, seed: int) -> None:
    """Lengthen a fresh model's tables, in place."""
    parts: Any = model
    embeddings, config = parts.uniter.embeddings, parts.config
    types_VH = _more_types(embeddings.token_type_embeddings.weight.detach(), growth)
    embeddings.token_type_embeddings = _table(types_VH)
    config.type_vocab_size = growth.types
    if growth.words:
        words_VH = embeddings.word_embeddings.weight.detach()
        generator = torch.Generator().manual_seed(seed + _PEOPLE_SEED)
        fresh_VH = torch.empty(growth.words, words_VH.shape[1]).normal_(0.0, 0.02, generator=generator)
        embeddings.word_embeddings = _table(torch.cat([words_VH, fresh_VH]))
        config.vocab_size += growth.words


def _table(rows_VH: Tensor) -> nn.Embedding:
    return nn.Embedding(rows_VH.shape[0], rows_VH.shape[1], _weight=rows_VH)


def _labels(model: nn.Module) -> tuple[str, ...]:
    parts: Any = model
    return tuple(parts.config.id2label.values())


def _reason(name: str) -> str:
    return next(reason for pattern, reason in _REASONS if pattern.search(name))


def _neurons(modules: Mapping[str, nn.Module]) -> Iterator[Coupling]:
    for name, module in modules.items():
        if isinstance(module, Intermediate):
            producer = f"{name}.dense.weight"
            yield Coupling(
                kind="neuron",
                producers=(producer,),
                consumer=f"{name.removesuffix('intermediate')}output.dense.weight",
                units=module.dense.out_features,
                unit_size=1,
                constant_from=producer,
            )


def _regions(image: object) -> Regions:
    assert isinstance(image, Regions)
    return image


def _padded(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)


def _ones(rows: Sequence[NDArray[Any]]) -> Tensor:
    return pad_sequence([torch.ones(len(row), dtype=torch.int64) for row in rows], batch_first=True)


def _visual(images: Sequence[Regions]) -> dict[str, Tensor]:
    boxes = [torch.tensor(one.position_features) for one in images]
    return {
        "visual_feats": pad_sequence([torch.tensor(one.features) for one in images], batch_first=True),
        "visual_pos": pad_sequence(boxes, batch_first=True),
        "visual_attention_mask": _ones([one.boxes for one in images]),
    }


def _random_mask(batch: int, size: int, generator: torch.Generator) -> Tensor:
    lengths = torch.randint(1, size + 1, (batch,), generator=generator)
    lengths[0] = size
    return (torch.arange(size) < lengths[:, None]).long()

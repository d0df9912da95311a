"""UNITER (Chen et al., ECCV 2020) as a family: sizes, heads, checkpoints, what is pruned, batches.

Shapes: B batch, T words, R regions, F feature width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlcompress.errors import unknown
from vlcompress.models.base import CORNERS, UNCUT, Config, Head, HeadKind, LoadReport
from vlcompress.models.batches import random_mask, random_regions, random_text
from vlcompress.models.checkpoints import (
    Tensors,
    knows_images,
    load_strictly,
    new_head,
    rank_from_matching,
    read_checkpoint,
    renamed,
    without_heads,
)
from vlcompress.models.hub import HubForm, hub_form, labelled
from vlcompress.models.labels import in_answer_order
from vlcompress.models.transformer_layout import TransformerFamily, bert_size
from vlcompress.models.uniter.batches import collate
from vlcompress.models.uniter.config import UniterConfig
from vlcompress.models.uniter.heads import HEADS
from vlcompress.models.uniter.model import BOX_WIDTH
from vlcompress.models.uniter.pretraining import PRETRAINING

_SIZES: dict[str, Config] = {
    # tiny is for tests, small is of LXMERT small's scale, base and large are the published models.
    "tiny": bert_size(32, 4, 64, num_hidden_layers=2, max_position_embeddings=128),
    # at small's width a dropout of 0.1 drowns what pre-training has to find
    "small": bert_size(128, 4, 512, num_hidden_layers=6, max_position_embeddings=128, dropout=0.0),
    "base": bert_size(768, 12, 3072, num_hidden_layers=12, max_position_embeddings=512),
    "large": bert_size(1024, 16, 4096, num_hidden_layers=24, max_position_embeddings=512),
}

OFFICIAL_NAMES = (
    # ChenRocks/UNITER, BERT and a saved encoder to the names here, for substitution in this order.
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

_BERT = "uniter.img_embeddings.* stays fresh: the checkpoint knows no images (the paper's BERT-init control)"


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


class UniterFamily(TransformerFamily):
    """UNITER as the toolchain sees it."""

    name = "uniter"
    title = "UNITER"
    sizes = _SIZES
    heads: ClassVar[tuple[HeadKind, ...]] = ("answers", "pair", "choice", "region", "match", "pretraining")
    tasks = ("vqa", "gqa", "nlvr2", "snli_ve", "vcr", "refcoco", "retrieval", "pretraining")
    reads = "regions"
    backbone_prefix = "uniter."
    hub_name = "uniter-base.pt"  # not on a hub: the file that the official server had
    longest_text = UNCUT
    longest_trained = 60  # max_txt_len, which is -1 in the official inference
    inherited = ("rank_output.",)
    normalises_answers = True
    retrieval = "triplet"
    perturbed: ClassVar = {"text": "uniter.embeddings.word_embeddings", "image": "visual_feats"}
    pretraining = PRETRAINING
    language_models: ClassVar = {"base": "google-bert/bert-base-cased", "large": "google-bert/bert-large-cased"}
    language_names = re.compile(r"uniter\.(embeddings|encoder|pooler)\..*")
    pruned = re.compile(
        r"uniter\.(encoder\.layer\.\d+\."
        r"(attention\.self\.(query|key|value)|(attention\.output|intermediate|output)\.dense)|pooler\.dense)\.weight"
    )
    collate = staticmethod(collate)

    def config(self, size: str, *, vocab_size: int, feature_dim: int, objects: int = 1601) -> Config:
        """See `Family.config`; `vocab_size` is without VCR's added tokens, `objects` counts the detector's classes."""
        data = {"vocab_size": vocab_size, "visual_feat_dim": feature_dim, "num_object_labels": objects}
        return self.sized(size) | data

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """See `Family.build`; a head for NLVR2 or VCR brings more rows in the type table (and VCR's in the word table).

        The rest of the backbone is the same as under any other head.
        """
        model = super().build(config, head, seed=seed)
        if head.kind in _GROWTH:
            _grow(model, _GROWTH[head.kind], seed)
        return model

    def construct(self, config: Config, head: Head) -> nn.Module:
        """Make the model of a kind and variant of head."""
        if (head.kind, head.variant) not in HEADS:
            variants = [variant for kind, variant in HEADS if kind == head.kind and variant]
            raise unknown(f"variant of uniter's head '{head.kind}'", head.variant, variants)
        width, heads = config["hidden_size"], config["num_attention_heads"]
        if width % heads:
            raise ValueError(f"hidden_size {width} is no multiple of num_attention_heads {heads}")
        return HEADS[head.kind, head.variant](_own_config(config, head))

    def canonical(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Family.canonical`."""
        return renamed(tensors, OFFICIAL_NAMES)

    def hub_form(self, config: Config, head: Head, weights: Mapping[str, Tensor]) -> HubForm:
        """See `Family.hub_form`; transformers knows the class once vlcompress is imported.

        Rows that a head adds to the tables are counted in the configuration.
        """
        rows = {"vocab_size": len(weights[_WORDS]), "type_vocab_size": len(weights[_TYPES])}
        return hub_form(HEADS[head.kind, head.variant], _own_config(config | rows, head), weights)

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """See `Family.load`; image embeddings may be missing too (a BERT), and are then reported.

        Official files are ``uniter-base.pt`` and a fine-tuned ``model_step_N.pt``, also with a prefix ``uniter.``,
        ``bert.`` or ``module.``. Rows that NLVR2 and VCR add to the tables start as in the official code; a rank head
        starts from row 1 of the matching head; answers named beside the checkpoint are put into this model's order.
        """
        tensors = _known(renamed(read_checkpoint(checkpoint), OFFICIAL_NAMES))
        if fresh_head:
            kept = ("itm_output.",) if "rank_output.weight" in model.state_dict() else ()
            tensors = without_heads(tensors, _HEADS, kept)
        tensors, notes = _fitted(model, tensors, checkpoint)
        image = () if any(name.startswith(_IMAGE) for name in tensors) else (_IMAGE,)
        report = load_strictly(model, tensors, source=checkpoint, heads=(*_HEADS, *image))
        report = new_head(report) if fresh_head else report
        told = tuple(note for note in report.notes if not note.startswith(_IMAGE))
        return replace(report, notes=(*told, *([_BERT] if image else []), *notes))

    def load_language(self, model: nn.Module, checkpoint: str) -> LoadReport:
        """Load a BERT into text embeddings, encoder and pooler; image embeddings and head stay.

        Raises:
            VlcompressError: see `vlcompress.models.language.StartsFromLanguage`.
        """
        if any(name.startswith(_IMAGE) for name in renamed(read_checkpoint(checkpoint), OFFICIAL_NAMES)):
            raise knows_images(checkpoint)
        return self.load(model, checkpoint, fresh_head=True)

    def word_states(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encode words alone: the encoder's output [B, T, H] for a text with an image of no regions."""
        parts: Any = model
        tokens_BT = inputs["input_ids"]
        nothing = torch.zeros(len(tokens_BT), 0, parts.config.visual_feat_dim, device=tokens_BT.device)
        nowhere = torch.zeros(len(tokens_BT), 0, BOX_WIDTH, device=tokens_BT.device)
        result: Tensor = parts.hidden(**inputs, visual_feats=nothing, visual_pos=nowhere)
        return result

    def preprocessing(self, config: Config) -> Config:
        """Add the form of the regions: boxes are fractions of the picture."""
        regions = {"feature_width": config["visual_feat_dim"], "boxes": [*CORNERS, "width", "height", "area"]}
        return super().preprocessing(config) | regions

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs of the form of `collate`; types are 0 or 1, which every head has."""
        generator = torch.Generator().manual_seed(seed)
        words = random_text(config["vocab_size"], batch, text, generator)
        visual_mask = random_mask(batch, regions, generator)
        features, corners = random_regions(batch, regions, config["visual_feat_dim"], generator)
        sizes = corners[..., 2:] - corners[..., :2]
        boxes = torch.cat([corners, sizes, sizes.prod(dim=-1, keepdim=True)], dim=-1)
        return {
            **words,
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
        """See `Family.logits`; for the inputs see `UniterModel.forward`."""
        result: Tensor = model(**inputs)
        return result


def _own_config(config: Config, head: Head) -> UniterConfig:
    return UniterConfig(**config, **(labelled(head.labels) if head.kind == "answers" else {}))


def _known(tensors: Tensors) -> Tensors:
    """Leave out what a BERT has and UNITER has no use for."""
    return {name: tensor for name, tensor in tensors.items() if not _BERT_ONLY.fullmatch(name)}


def _fitted(model: nn.Module, tensors: Tensors, source: str) -> tuple[Tensors, list[str]]:
    """Bring tensors into the shapes and the order of the model, with notes on what was done."""
    tensors, notes = _lengthened(model, tensors)
    tensors, rank = rank_from_matching(tensors, model, "itm_output.")
    parts: Any = model
    mine = tuple(parts.config.id2label.values())
    tensors, order = in_answer_order(tensors, model, _LABELS, mine=mine, source=source)
    return tensors, [*notes, *rank, *order]


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

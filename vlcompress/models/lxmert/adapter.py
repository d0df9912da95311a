"""LXMERT as a family: sizes, heads, checkpoints, what is pruned, batches. The numbers are in `lxmert.model`.

Shapes: B batch, T words, R regions, F feature width, H hidden width.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertForPreTraining, LxmertForQuestionAnswering, LxmertModel

from vlcompress.data.regions import Regions
from vlcompress.models.attention import additive
from vlcompress.models.base import CORNERS, Config, Head, HeadKind, LoadReport, Sample
from vlcompress.models.batches import padded, padding_mask, random_regions, random_text, regions_of
from vlcompress.models.building import left_and_right
from vlcompress.models.checkpoints import knows_images, load_strictly, new_head, read_checkpoint, renamed, without_heads
from vlcompress.models.hub import HubForm, hub_form, labelled
from vlcompress.models.lxmert.answers import load_answer_head
from vlcompress.models.lxmert.model import OFFICIAL_NAMES, LxmertForImagePairs, pooled, take_over_attention
from vlcompress.models.lxmert.pretraining import PRETRAINING
from vlcompress.models.transformer_layout import TransformerFamily, bert_size

_SIZES: dict[str, Config] = {
    # tiny is for tests, small is the built-in default, base is the published model.
    "tiny": bert_size(32, 4, 64, l_layers=1, x_layers=1, r_layers=1, max_position_embeddings=24),
    # at small's width a dropout of 0.1 drowns what pre-training has to find
    "small": bert_size(128, 4, 512, l_layers=2, x_layers=2, r_layers=1, max_position_embeddings=24, dropout=0.0),
    "base": bert_size(768, 12, 3072, l_layers=9, x_layers=5, r_layers=5, max_position_embeddings=512),
}

# UNITER and LXMERT publish the same 3129 VQA answers in different orders, and no weight file names them.
_ORDER = "answer_head.* is loaded: its rows must be in the order of this task's answers, which the file does not name"
_HEADS = ("answer_head.", "cls.", "obj_predict_head.")
_LANGUAGE_NAMES = ((r"^(embeddings|encoder|pooler)\.", r"lxmert.\1."), *OFFICIAL_NAMES)  # the first: a BERT saved alone
_VISION = re.compile(r"lxmert\.encoder\.(visn_fc|x_layers|r_layers)\..*")

_KEPT_AS_RELEASED = re.compile(
    r"lxmert\.embeddings\..*|lxmert\.encoder\.visn_fc\.(?!visn_fc\.weight).*|answer_head\.logit_fc\.3\.bias"
)
_MODELS = {"answers": LxmertForQuestionAnswering, "pair": LxmertForImagePairs, "pretraining": LxmertForPreTraining}


class LxmertFamily(TransformerFamily):
    """LXMERT as the toolchain sees it."""

    name = "lxmert"
    title = "LXMERT"
    sizes = _SIZES
    heads: ClassVar[tuple[HeadKind, ...]] = ("answers", "pair", "pretraining")
    labelled_heads = heads
    tasks = ("vqa", "gqa", "nlvr2", "pretraining")
    reads = "regions"
    backbone_prefix = "lxmert."
    hub_name = "unc-nlp/lxmert-base-uncased"
    longest_text = 20
    perturbed: ClassVar = {"text": "lxmert.embeddings.word_embeddings", "image": "visual_feats"}
    pretraining = PRETRAINING
    language_models: ClassVar = {"base": "google-bert/bert-base-uncased"}
    language_names = re.compile(r"lxmert\.(embeddings\.(\w+_embeddings|LayerNorm)|encoder\.layer\.\d+|pooler)\..*")
    policies = ("bert-tickets", "as-released")
    pruned = re.compile(
        r"lxmert\.(encoder\.(layer|x_layers|r_layers)\.\d+\..*\.(query|key|value|dense)|pooler\.dense)\.weight"
    )
    official_order = True
    answers_file = "lxmert/all_ans.json"

    def config(
        self, size: str, *, vocab_size: int, feature_dim: int, objects: int = 1600, attributes: int = 400
    ) -> Config:
        """See `Family.config`; `objects` and `attributes` count the region detector's classes (for pre-training)."""
        data = {"vocab_size": vocab_size, "visual_feat_dim": feature_dim}
        return self.sized(size) | data | {"num_object_labels": objects, "num_attr_labels": attributes}

    def construct(self, config: Config, head: Head) -> nn.Module:
        """Make transformers' model, with attention that heads can be removed from."""
        model: nn.Module = _MODELS[head.kind](LxmertConfig(**config | {"num_qa_labels": len(head.labels)}))
        take_over_attention(model)
        return model

    def canonical(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Family.canonical`."""
        return renamed(tensors, OFFICIAL_NAMES)

    def hub_form(self, config: Config, head: Head, weights: Mapping[str, Tensor]) -> HubForm:
        """See `Family.hub_form`; of two images (NLVR2) transformers has the backbone alone."""
        own = LxmertConfig(**config | {"num_qa_labels": len(head.labels)} | labelled(head.labels))
        if head.kind == "pair":
            return hub_form(LxmertModel, own, weights, lambda name: (name.removeprefix(self.backbone_prefix),))
        return hub_form(_MODELS[head.kind], own, weights)

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """See `Family.load`; official files are ``model_LXRT.pth`` and ``BEST.pth``, saved from one or several GPUs."""
        tensors = renamed(read_checkpoint(checkpoint), OFFICIAL_NAMES)
        if fresh_head:
            tensors = without_heads(tensors, _HEADS)
        report = load_strictly(model, tensors, source=checkpoint, heads=_HEADS)
        if fresh_head:
            return new_head(report)
        return replace(report, notes=(*report.notes, _ORDER)) if report.head == "loaded" else report

    def load_language(self, model: nn.Module, checkpoint: str) -> LoadReport:
        """Load a BERT into embeddings, language encoder and pooler, as the official code does; the rest stays.

        Layers that a BERT has and the language encoder has not are left out.

        Raises:
            VlcompressError: see `vlcompress.models.language.StartsFromLanguage`.
        """
        tensors, own = renamed(read_checkpoint(checkpoint), _LANGUAGE_NAMES), model.state_dict()
        if any(_VISION.fullmatch(name) for name in tensors):
            raise knows_images(checkpoint)
        language = {name: one for name, one in tensors.items() if name in own and self.language_names.fullmatch(name)}
        rest = {name: one for name, one in own.items() if not self.language_names.fullmatch(name)}
        report = load_strictly(model, rest | language, source=checkpoint, heads=_HEADS)
        note = "what does not read words stays fresh: the checkpoint knows no images (the paper's BERT-init control)"
        return replace(report, loaded=len(language), head="fresh", notes=(note,))

    def word_states(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encode words alone: the language encoder's output [B, T, H]."""
        backbone: Any = model.lxmert
        states_BTH: Tensor = backbone.embeddings(inputs["input_ids"], torch.zeros_like(inputs["input_ids"]))
        mask = additive(inputs["attention_mask"], states_BTH)
        for layer in backbone.encoder.layer:
            states_BTH = layer(states_BTH, mask)[0]
        return states_BTH

    def load_answers(
        self, model: nn.Module, checkpoint: str, *, answers: Sequence[str], labels: Sequence[str]
    ) -> LoadReport:
        """See `Family.load_answers`; the official ``--loadLXMERTQA``."""
        return load_answer_head(model, checkpoint, answers=answers, labels=labels)

    def kept_because(self, name: str, policy: str) -> str:
        """Say why a policy leaves a parameter alone.

        "as-released" is what the code of Hashemi et al. (2023) prunes: every tensor, biases, LayerNorms and the answer
        head included, but a list of the first tensors and the very last one.
        """
        if policy == "as-released":
            return "left out by position in the released code" if _KEPT_AS_RELEASED.fullmatch(name) else ""
        return super().kept_because(name, policy)

    def modality_of(self, name: str) -> str:
        """Name the modality by the encoder that a weight is in."""
        if ".x_layers." in name:
            return "cross"
        return "vision" if ".r_layers." in name else "pooler" if "pooler" in name else "language"

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad samples to the longest text and the most regions; two images are two rows, one after the other.

        Returns:
            input_ids int64 [B, T], attention_mask int64 [B, T], visual_feats float32 [B, R, F], visual_pos float32
            [B, R, 4] in 0..1, and where images differ in their number of regions visual_attention_mask int64 [B, R].
        """
        rows = [(sample.ids, image) for sample in samples for image in sample.images]
        ids = [ids for ids, _ in rows]
        visual = _visual([regions_of(image) for _, image in rows])
        return {"input_ids": padded(ids), "attention_mask": padding_mask(ids), **visual}

    def preprocessing(self, config: Config) -> Config:
        """Add the form of the regions: boxes are fractions of the picture."""
        regions = {"feature_width": config["visual_feat_dim"], "boxes": [*CORNERS]}
        return super().preprocessing(config) | regions

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs of the form of `collate`; every sentence but the first is padded."""
        generator = torch.Generator().manual_seed(seed)
        words = random_text(config["vocab_size"], batch, text, generator)
        features, boxes = random_regions(batch, regions, config["visual_feat_dim"], generator)
        return {**words, "visual_feats": features, "visual_pos": boxes}

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes that may vary: batch, text and regions."""
        words, regions = {0: "batch", 1: "text"}, {0: "batch", 1: "regions"}
        return {"input_ids": words, "attention_mask": words, "visual_feats": regions, "visual_pos": regions}

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Score answers [B, labels], or statements about two images [B / 2, 2]; for the inputs see `encode`."""
        head: Any = model.answer_head
        pooled_BH = pooled(model, inputs)
        if isinstance(model, LxmertForImagePairs):
            pooled_BH = torch.cat(left_and_right(pooled_BH), dim=1)
        result: Tensor = head(pooled_BH)
        return result


def _visual(images: Sequence[Regions]) -> dict[str, Tensor]:
    boxes = [one.normalized_boxes for one in images]
    visual = {"visual_feats": padded([one.features for one in images]), "visual_pos": padded(boxes)}
    if len({len(one) for one in boxes}) > 1:
        visual["visual_attention_mask"] = padding_mask(boxes)
    return visual

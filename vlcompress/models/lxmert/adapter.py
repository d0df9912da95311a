"""LXMERT (Tan and Bansal, EMNLP 2019): a language, a vision and a cross-modality encoder over region features.

The modules and their names are those of transformers' LXMERT, so weights go to and from Hugging Face unchanged. Two
things differ, neither in the numbers: attention runs through `scaled_dot_product_attention`, and a forward pass for
answers leaves out what the answer cannot depend on (see `pooled`).

Shapes: B batch, T words, R regions, S keys (T or R), H hidden width, N attention heads, D width of one head.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertForPreTraining, LxmertForQuestionAnswering

from vlcompress.data.examples import Pictures
from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.attention import Attention, additive
from vlcompress.models.base import Config, Coupling, Head, HeadKind, LoadReport, Prunable, Sample
from vlcompress.models.building import left_and_right, materialise, skeleton
from vlcompress.models.checkpoints import load_strictly, read_checkpoint, renamed
from vlcompress.models.language import knows_images
from vlcompress.models.lxmert.model import LxmertForImagePairs, pooled, take_over_attention
from vlcompress.models.transformer_layout import head_coupling, prunable_where

_SIZES: dict[str, Config] = {
    # tiny is for tests, small is the built-in default, base is the published model.
    "tiny": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "l_layers": 1,
        "x_layers": 1,
        "r_layers": 1,
        "max_position_embeddings": 24,
    },
    "small": {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "l_layers": 2,
        "x_layers": 2,
        "r_layers": 1,
        "max_position_embeddings": 24,
        "hidden_dropout_prob": 0.0,  # at this width 0.1 drowns what pre-training has to find
        "attention_probs_dropout_prob": 0.0,
    },
    "base": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "l_layers": 9,
        "x_layers": 5,
        "r_layers": 5,
        "max_position_embeddings": 512,
    },
}

OFFICIAL_NAMES = (
    # airsplay/lxmert to transformers, for regular-expression substitution in this order; others are the same in both.
    (r"^module\.", ""),  # saved from DataParallel
    (r"^lxrt_encoder\.model\.", ""),  # a fine-tuned snapshot
    (r"^bert\.", "lxmert."),
    (r"^logit_fc\.", "answer_head.logit_fc."),
    (r"\.gamma$", ".weight"),  # LayerNorm in files of 2018 and 2019
    (r"\.beta$", ".bias"),
)
# UNITER and LXMERT publish the same 3129 VQA answers in different orders, and no weight file names them.
_ORDER = "answer_head.* is loaded: its rows must be in the order of this task's answers, which the file does not name"
_HEADS = ("answer_head.", "cls.", "obj_predict_head.")
_LANGUAGE_NAMES = ((r"^(embeddings|encoder|pooler)\.", r"lxmert.\1."), *OFFICIAL_NAMES)  # the first: a BERT saved alone
_VISION = re.compile(r"lxmert\.encoder\.(visn_fc|x_layers|r_layers)\..*")

_PRUNED = re.compile(
    r"lxmert\.(encoder\.(layer|x_layers|r_layers)\.\d+\..*\.(query|key|value|dense)|pooler\.dense)\.weight"
)
_KEPT_AS_RELEASED = re.compile(
    r"lxmert\.embeddings\..*|lxmert\.encoder\.visn_fc\.(?!visn_fc\.weight).*|answer_head\.logit_fc\.3\.bias"
)
_POLICIES: dict[str, Callable[[str], bool]] = {
    "bert-tickets": lambda name: _PRUNED.fullmatch(name) is not None,
    "as-released": lambda name: _KEPT_AS_RELEASED.fullmatch(name) is None,
}
_REASONS = (
    # The first pattern that is found in a name gives the reason why the policy leaves that parameter alone.
    (re.compile(r"^(?!lxmert\.)"), "task head: made anew for every task, never masked"),
    (re.compile(r"(LayerNorm|layer_norm)\."), "LayerNorm: few weights, each scales a whole channel"),
    (re.compile(r"bias$"), "bias: few weights, no matrix to make sparse"),
    (re.compile(r"embeddings\."), "embedding: looked up, not multiplied"),
    (re.compile(r"visn_fc\."), "input projection of region features and boxes: not part of the encoder stacks"),
)


_MODELS = {"answers": LxmertForQuestionAnswering, "pair": LxmertForImagePairs, "pretraining": LxmertForPreTraining}


class LxmertFamily:
    """LXMERT as the toolchain sees it (see `vlcompress.models.base.Family`)."""

    name = "lxmert"
    sizes = tuple(_SIZES)
    heads: tuple[HeadKind, ...] = ("answers", "pair", "pretraining")
    reads: Literal["regions", "pixels"] = "regions"
    backbone_prefix = "lxmert."
    inherited: tuple[str, ...] = ()
    language_names = re.compile(r"lxmert\.(embeddings\.(\w+_embeddings|LayerNorm)|encoder\.layer\.\d+|pooler)\..*")

    def config(
        self, size: str, *, vocab_size: int, feature_dim: int, objects: int = 1600, attributes: int = 400
    ) -> Config:
        """Return the configuration of a named size, in the keys of a Hugging Face config.json.

        Args:
            size: "tiny", "small" or "base".
            vocab_size: word pieces of the tokenizer.
            feature_dim: width of one region's features.
            objects: object classes of the region detector (pre-training alone predicts them).
            attributes: attribute classes of the region detector (likewise).

        Raises:
            VlcompressError: unknown size.
        """
        if size not in _SIZES:
            raise unknown("size of lxmert", size, _SIZES)
        data = {"vocab_size": vocab_size, "visual_feat_dim": feature_dim}
        labels = {"num_object_labels": objects, "num_attr_labels": attributes}
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        return {"model_type": "lxmert", **dropout, **_SIZES[size], **data, **labels}

    def build(self, config: Config, head: Head, *, seed: int) -> nn.Module:
        """Make a model with BERT's fresh weights (normal, 0.02), the same for the same seed, float32, on the CPU.

        Raises:
            VlcompressError: an unknown kind of head, no answers, or a configuration that fits no model.
        """
        model = self.skeleton(config, head)
        materialise(model, seed=seed)
        return model

    def skeleton(self, config: Config, head: Head) -> nn.Module:
        """Make the model of `build` on the meta device: names and shapes without weights."""
        if head.kind not in _MODELS:
            raise unknown("kind of head", head.kind, _MODELS)
        if not head.labels:
            raise VlcompressError("the answer head has no labels: give at least one answer")
        plain = {name: value for name, value in config.items() if name != "model_type"}
        try:
            model = skeleton(lambda: _MODELS[head.kind](LxmertConfig(**plain | {"num_qa_labels": len(head.labels)})))
        except ValueError as error:
            raise VlcompressError(f"this configuration makes no LXMERT model: {error}") from error
        take_over_attention(model)
        return model

    def load(self, model: nn.Module, checkpoint: str, *, fresh_head: bool = False) -> LoadReport:
        """Load a checkpoint strictly; a head of another task is the one allowed difference, and is reported.

        Args:
            model: as made by `build`.
            checkpoint: a Hugging Face folder or hub name, a .safetensors file with Hugging Face's names, or an official
                ``model_LXRT.pth`` (pre-training) or ``BEST.pth`` (fine-tuned), saved from one or from several GPUs.
            fresh_head: leave the model's head alone even where the checkpoint's would fit.

        Raises:
            VlcompressError: an unreadable file; missing, unexpected or misshapen tensors, by name.
        """
        tensors = renamed(read_checkpoint(checkpoint), OFFICIAL_NAMES)
        if fresh_head:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEADS)}
        report = load_strictly(model, tensors, source=checkpoint, heads=_HEADS)
        if fresh_head:
            return replace(report, notes=("the task head stays fresh, as asked",))
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
        """Return the language encoder's output [B, T, H]."""
        backbone: Any = model.lxmert
        states_BTH: Tensor = backbone.embeddings(inputs["input_ids"], torch.zeros_like(inputs["input_ids"]))
        mask = additive(inputs["attention_mask"], states_BTH)
        for layer in backbone.encoder.layer:
            states_BTH = layer(states_BTH, mask)[0]
        return states_BTH

    def prunable(self, model: nn.Module, policy: str) -> Prunable:
        """Name what a policy prunes.

        "bert-tickets" is BERT-Tickets' (``LT_glue.py``), which Gan et al. (AAAI 2022) build on: query, key, value and
        output projections, both feed-forward projections, and the pooler. The cross attention that both directions
        of a layer share counts once. "as-released" is what the code of Hashemi et al. (2023) prunes: every tensor,
        biases, LayerNorms and the answer head included, but a list of the first tensors and the very last one.

        Raises:
            VlcompressError: unknown policy.
        """
        if policy not in _POLICIES:
            raise unknown("pruning policy", policy, _POLICIES)
        return prunable_where(model, _POLICIES[policy], lambda name: _reason(name, policy), self.backbone_prefix)

    def couplings(self, model: nn.Module) -> Sequence[Coupling]:
        """List every attention head and feed-forward neuron, by the sizes that the modules have now."""
        modules = dict(model.named_modules())
        heads = (head_coupling(name, module) for name, module in modules.items() if isinstance(module, Attention))
        return [*heads, *_neurons(modules)]

    def pictures(self, config: Config, source: Pictures) -> Pictures:
        """Return the same pictures: their region features were made beforehand."""
        return source

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad samples to the longest text and the most regions; two images are two rows, one after the other.

        Returns:
            input_ids int64 [B, T], attention_mask int64 [B, T], visual_feats float32 [B, R, F], visual_pos float32
            [B, R, 4] in 0..1, and where images differ in their number of regions visual_attention_mask int64 [B, R].
        """
        rows = [(sample.ids, image) for sample in samples for image in sample.images]
        words_BT = _padded([ids for ids, _ in rows])
        mask_BT = _padded([np.ones_like(ids) for ids, _ in rows])
        return {"input_ids": words_BT, "attention_mask": mask_BT, **_visual([_regions(image) for _, image in rows])}

    def example_inputs(self, config: Config, *, batch: int, text: int, regions: int, seed: int) -> dict[str, Tensor]:
        """Make random inputs; every sentence but the first is padded by a random number of words.

        Returns:
            input_ids int64 [batch, text], attention_mask int64 [batch, text], visual_feats float32
            [batch, regions, F] at 0 or more, visual_pos float32 [batch, regions, 4] as x1 <= x2, y1 <= y2 in 0..1.
        """
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(1, config["vocab_size"], (batch, text), generator=generator)
        lengths = torch.randint(1, text + 1, (batch,), generator=generator)
        lengths[0] = text
        mask = (torch.arange(text) < lengths[:, None]).long()
        features = torch.rand(batch, regions, config["visual_feat_dim"], generator=generator)
        corners = torch.rand(batch, regions, 2, 2, generator=generator).sort(dim=2).values
        return {
            "input_ids": words * mask,
            "attention_mask": mask,
            "visual_feats": features,
            "visual_pos": corners.flatten(2),
        }

    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Name the axes that may vary: batch, text and regions."""
        words, regions = {0: "batch", 1: "text"}, {0: "batch", 1: "regions"}
        return {"input_ids": words, "attention_mask": words, "visual_feats": regions, "visual_pos": regions}

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the scores before any sigmoid or softmax; for the inputs see `encode`.

        Returns:
            float32 [B, labels]; of a model for image pairs [B / 2, 2], two rows of the inputs to a statement.
        """
        head: Any = model.answer_head
        pooled_BH = pooled(model, inputs)
        if isinstance(model, LxmertForImagePairs):
            pooled_BH = torch.cat(left_and_right(pooled_BH), dim=1)
        result: Tensor = head(pooled_BH)
        return result


def _regions(image: Regions | NDArray[np.uint8]) -> Regions:
    assert isinstance(image, Regions)
    return image


def _padded(arrays: Sequence[NDArray[Any]]) -> Tensor:
    """Put arrays [n, ...] into one tensor [B, N, ...], with zeros after the shorter ones."""
    result = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(result, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(result)


def _visual(images: Sequence[Regions]) -> dict[str, Tensor]:
    counts = [len(one.boxes) for one in images]
    visual = {
        "visual_feats": _padded([one.features for one in images]),
        "visual_pos": _padded([one.normalized_boxes for one in images]),
    }
    if len(set(counts)) > 1:
        visual["visual_attention_mask"] = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).long()
    return visual


def _reason(name: str, policy: str) -> str:
    if policy == "as-released":
        return "left out by position in the released code"
    return next(reason for pattern, reason in _REASONS if pattern.search(name))


def _neurons(modules: Mapping[str, nn.Module]) -> Iterator[Coupling]:
    ups = {"intermediate": "output", "lang_inter": "lang_output", "visn_inter": "visn_output"}
    for name, module in modules.items():
        layer, _, part = name.rpartition(".")
        if part in ups:
            up: Any = module
            producer = f"{name}.dense.weight"
            yield Coupling(
                kind="neuron",
                producers=(producer,),
                consumer=f"{layer}.{ups[part]}.dense.weight",
                units=up.dense.out_features,
                unit_size=1,
                constant_from=producer,
            )

"""Reference outputs of the official LXMERT and UNITER code at tiny size, and models of the same configuration."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vlcompress.models.base import Config, Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.uniter.adapter import UniterFamily

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lxmert_models"
UNITER_FIXTURES = Path(__file__).parents[1] / "fixtures" / "uniter"


@dataclass(frozen=True)
class Case:
    """One case of the official code: what went in, what came out, and the configuration."""

    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def config(self) -> Config:
        visual = self.meta["visual_config"]
        labels = {"num_object_labels": visual["obj_id_num"], "num_attr_labels": visual["attr_id_num"]}
        sizes = {name: visual[name] for name in ("l_layers", "x_layers", "r_layers", "visual_feat_dim")}
        return {name: value for name, value in self.meta["bert_config"].items() if name != "num_hidden_layers"} | (
            sizes | labels
        )

    @property
    def batch(self) -> dict[str, Tensor]:
        return {
            "input_ids": self.inputs["input_ids"],
            "attention_mask": self.inputs["input_mask"],
            "visual_feats": self.inputs["feats"],
            "visual_pos": self.inputs["boxes"],
        }

    def model(self, kind: str = "answers", answers: int | None = None) -> nn.Module:
        labels = tuple(f"answer {row}" for row in range(answers or self.meta["num_answers"]))
        return LxmertFamily().build(self.config, Head(kind, labels), seed=0).eval()


def _case(name: str) -> Case:
    folder = FIXTURES / name
    tensors = (load_file(folder / f"{part}.safetensors") for part in ("weights", "inputs", "expected"))
    return Case(*tensors, meta=json.loads((folder / "meta.json").read_text()))


@pytest.fixture(scope="session")
def vqa() -> Case:
    """A fine-tuned snapshot (BEST.pth) and its answers."""
    return _case("vqa")


@pytest.fixture(scope="session")
def qa_load() -> Case:
    """A pre-training snapshot (model_LXRT.pth from DataParallel) and what its answer head becomes for VQA."""
    return _case("lxmert_qa_load")


@dataclass(frozen=True)
class UniterCase:
    """One case of the official UNITER code: what went in, what came out, and the configuration."""

    folder: Path
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def weights(self) -> str:
        return str(self.folder / "weights.safetensors")

    @property
    def config(self) -> Config:
        made = self.meta["constructor"]
        return self.meta["config"] | {
            "visual_feat_dim": made["img_dim"],
            "num_object_labels": made.get("img_label_dim", 1601),
        }

    def model(self, head: Head) -> nn.Module:
        model = UniterFamily().build(self.config, head, seed=0).eval()
        UniterFamily().load(model, self.weights)
        return model

    def batch(self, part: str = "") -> dict[str, Tensor]:
        """Return the official inputs with padding after each part, where the official code packs text and image."""
        words, regions = self._lengths(part)
        ids, boxes = self.inputs[f"{part}input_ids"], self.inputs[f"{part}img_pos_feat"]
        batch = {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < words[:, None]).long(),
            "visual_feats": self.inputs[f"{part}img_feat"],
            "visual_pos": boxes,
            "visual_attention_mask": (torch.arange(boxes.shape[1]) < regions[:, None]).long(),
        }
        if f"{part}img_masks" in self.inputs:
            batch["visual_masked"] = self.inputs[f"{part}img_masks"].bool()
        return batch

    def packed(self, hidden: Tensor, part: str = "") -> Tensor:
        """Return the rows of [B, T+R, ...] that are no padding, in the official order."""
        visible = self._visible(part)
        return hidden[visible]

    def official(self, hidden: Tensor, part: str = "") -> Tensor:
        """Return the rows of the official [B, S, ...] that are no padding."""
        return hidden[self.inputs[f"{part}attn_masks"].bool()]

    def _visible(self, part: str) -> Tensor:
        batch = self.batch(part)
        return torch.cat([batch["attention_mask"], batch["visual_attention_mask"]], dim=1).bool()

    def _lengths(self, part: str) -> tuple[Tensor, Tensor]:
        words = (self.inputs[f"{part}input_ids"] != 0).sum(dim=1)
        return words, self.inputs[f"{part}attn_masks"].sum(dim=1) - words


def _uniter_case(name: str) -> UniterCase:
    folder = UNITER_FIXTURES / name
    inputs, expected = (load_file(folder / f"{part}.safetensors") for part in ("inputs", "expected"))
    return UniterCase(folder, inputs, expected, json.loads((folder / "meta.json").read_text()))


@pytest.fixture(scope="session")
def uniter_vqa() -> UniterCase:
    """A fine-tuned VQA model."""
    return _uniter_case("vqa")


@pytest.fixture(scope="session")
def uniter_pretrain() -> UniterCase:
    """A pre-training model: the parts "mlm/", "mrfr/" and "itm/"."""
    return _uniter_case("pretrain")


@pytest.fixture(scope="session")
def uniter_rank() -> UniterCase:
    """A retrieval model."""
    return _uniter_case("itm_rank")

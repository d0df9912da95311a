"""Reference outputs of the official LXMERT code at tiny size, and models of the same configuration."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

from vlcompress.models.base import Config, Head
from vlcompress.models.lxmert import LxmertFamily

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lxmert_models"


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

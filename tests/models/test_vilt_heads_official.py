"""ViLT's other heads against the official code: image pairs, ranking, and the pre-training losses.

The weights of the backbone and the pictures are those of the case "vqa"; each folder's meta.json says what was run.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.models.test_vilt_official import CASE, INPUTS, WEIGHTS, _config
from vlcompress.models.base import Head
from vlcompress.models.masking import places
from vlcompress.models.objective import Batch
from vlcompress.models.vilt.adapter import ViltFamily, canonical
from vlcompress.models.vilt.pretraining import ViltPretraining

FAMILY = ViltFamily()
BACKBONE = {name: tensor for name, tensor in WEIGHTS.items() if "classifier" not in name}


def _model(case: str, head: Head, folder: Path) -> nn.Module:
    torch.save({"state_dict": BACKBONE | load_file(CASE.parent / case / "weights.safetensors")}, folder / "vilt.ckpt")
    model = FAMILY.build(_config(), head, seed=0).eval()
    report = FAMILY.load(model, str(folder / "vilt.ckpt"))
    assert report.head == "loaded"
    return model


def _inputs(texts: list[int], images: list[int]) -> dict[str, Tensor]:
    picture = INPUTS["image"][images]
    return {
        "input_ids": INPUTS["text_ids"][texts],
        "attention_mask": INPUTS["text_masks"][texts],
        "pixel_values": picture,
        "pixel_mask": (picture.sum(1) != 0).long(),
    }


def _expected(case: str) -> dict[str, Tensor]:
    return load_file(CASE.parent / case / "expected.safetensors")


def _check_gradients(case: str, model: nn.Module, loss: Tensor) -> None:
    loss.backward()
    norms = json.loads((CASE.parent / case / "meta.json").read_text())["grad_norms"]
    official = BACKBONE | load_file(CASE.parent / case / "weights.safetensors")
    parameters = dict(model.named_parameters())
    for name, norm in norms.items():
        grads = [parameters[part].grad for part in canonical({name: official[name]}) if part in parameters]
        own = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm().item()
        assert own == pytest.approx(norm, rel=1e-4, abs=1e-7), name


@pytest.mark.evidence("parity", "vilt-nlvr2")
def test_image_pairs(tmp_path: Path) -> None:
    model, expected = _model("nlvr2", Head("pair", ("false", "true")), tmp_path), _expected("nlvr2")
    logits = FAMILY.logits(model, _inputs([0, 0, 1, 1], [0, 2, 1, 0]))
    torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=0)
    _check_gradients("nlvr2", model, cross_entropy(logits, expected["labels"]))


@pytest.mark.evidence("parity", "vilt-retrieval")
def test_ranking_beside_false_texts(tmp_path: Path) -> None:
    model, expected = _model("retrieval", Head("match"), tmp_path), _expected("retrieval")
    scores = FAMILY.logits(model, _inputs([0, 1, 2, 1, 2, 0, 2, 0, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2])).view(3, 3)
    torch.testing.assert_close(scores, expected["scores"], atol=1e-5, rtol=0)
    loss = cross_entropy(scores, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
    _check_gradients("retrieval", model, loss)


@pytest.mark.evidence("parity", "vilt-pretraining")
def test_pretraining_losses_and_gradients(tmp_path: Path) -> None:
    model, expected = _model("pretraining", Head("pretraining"), tmp_path), _expected("pretraining")
    drawn = load_file(CASE.parent / "pretraining" / "inputs.safetensors")
    beside = [row if same else (row + 1) % 3 for row, same in enumerate(drawn["matched"].tolist())]
    inputs = _inputs([0, 1, 2, 0, 1, 2], [0, 1, 2, *beside])
    inputs["input_ids"] = torch.cat([drawn["hidden_ids"], INPUTS["text_ids"]])
    words = drawn["labels"].where(drawn["labels"] >= 0, -1)
    targets = {"words": words, "asked": places(words != -1), "matched": drawn["matched"]}
    task: Any = ViltPretraining([], SimpleNamespace(tokens=("[PAD]",)))  # type: ignore[arg-type]
    losses = task.losses(model, Batch(inputs, targets))
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], atol=1e-5, rtol=1e-6, msg=name)
    _check_gradients("pretraining", model, sum(losses.values(), torch.zeros(())))

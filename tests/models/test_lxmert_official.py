"""LXMERT against reference outputs of the official code, loaded from the official file layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tests.models.conftest import FIXTURES
from vlcompress.data.tokenizer import WordPiece
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.lxmert.answers import load_answer_head, table_answer
from vlcompress.models.lxmert.model import encode
from vlcompress.models.lxmert.pretraining import LOSSES, PretrainingObjective
from vlcompress.models.masking import NOTHING, places
from vlcompress.models.objective import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from tests.models.conftest import Case

FAMILY = LxmertFamily()


def _saved(case: Case, path: Path) -> str:
    torch.save(case.weights, path)
    return str(path)


@pytest.mark.evidence("parity", "lxmert-vqa", "lxmert-gqa")  # one head, one model
def test_fine_tuned_snapshot_gives_the_official_outputs(vqa: Case, tmp_path: Path) -> None:
    model = vqa.model()
    report = FAMILY.load(model, _saved(vqa, tmp_path / "BEST.pth"))
    assert (report.head, report.loaded) == ("loaded", len(vqa.weights))
    with torch.no_grad():
        encoded = encode(model, vqa.batch)
        logits = FAMILY.logits(model, vqa.batch)
    torch.testing.assert_close(encoded.language, vqa.expected["lang_feats"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.vision, vqa.expected["visn_feats"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.pooled, vqa.expected["pooled"], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, vqa.expected["logits"], atol=1e-5, rtol=0)
    assert torch.equal(logits.argmax(1), vqa.expected["pred"])


def test_gradients_are_the_official_ones(vqa: Case, tmp_path: Path) -> None:
    model = vqa.model()
    FAMILY.load(model, _saved(vqa, tmp_path / "BEST.pth"))
    target = vqa.inputs["target"]
    loss = binary_cross_entropy_with_logits(FAMILY.logits(model, vqa.batch), target) * target.shape[1]
    torch.testing.assert_close(loss, vqa.expected["train_loss"], atol=1e-5, rtol=0)
    loss.backward()
    norms = {name: parameter.grad.norm() for name, parameter in model.named_parameters() if parameter.grad is not None}
    official = {
        name.replace("lxrt_encoder.model.bert.", "lxmert.").replace("logit_fc.", "answer_head.logit_fc."): norm
        for name, norm in vqa.meta["grad_norms_dropout_off"]["train_loss"].items()
    }
    assert {name for name, norm in norms.items() if norm > 0} == {name for name, norm in official.items() if norm > 0}
    for name, norm in norms.items():  # a key's bias moves no softmax: its gradient is rounding alone
        torch.testing.assert_close(norm.item(), official.get(name, 0.0), rtol=1e-4, atol=1e-6, msg=name)


def test_pre_training_snapshot_loads_whole(qa_load: Case, tmp_path: Path) -> None:
    model = qa_load.model("pretraining", qa_load.meta["pretrain_num_answers"])
    report = FAMILY.load(model, _saved(qa_load, tmp_path / "model_LXRT.pth"))
    assert (report.head, report.loaded) == ("loaded", len(qa_load.weights))
    state = model.state_dict()
    for name, tensor in qa_load.weights.items():
        assert torch.equal(state[name.removeprefix("module.").replace("bert.", "lxmert.")], tensor), name


def test_answer_head_moves_to_other_answers(qa_load: Case, tmp_path: Path) -> None:
    path = _saved(qa_load, tmp_path / "model_LXRT.pth")
    model = qa_load.model()
    backbone = FAMILY.load(model, path)
    assert backbone.head == "fresh"
    assert any("answer_head.*" in note and "[11]" in note for note in backbone.notes)
    assert any("cls.*" in note for note in backbone.notes)
    answers = [answer["ans"] for answer in qa_load.meta["all_ans"]]
    report = load_answer_head(model, path, answers=answers, labels=qa_load.meta["label2ans"])
    assert report.notes == ("10 of 13 answers start from the checkpoint's rows; at zero: '', 'purple elephant', 'the'",)
    head = model.get_submodule("answer_head").state_dict()
    for name, tensor in head.items():
        assert torch.equal(tensor, qa_load.expected[f"after/{name}"]), name
    with torch.no_grad():
        logits = FAMILY.logits(model, qa_load.batch)
    torch.testing.assert_close(logits, qa_load.expected["logits"], atol=1e-5, rtol=0)


def test_answers_are_converted_as_officially(qa_load: Case) -> None:
    official = qa_load.meta["convert_ans"]
    assert {answer: table_answer(answer) for answer in official} == official


def test_a_vqa_head_is_no_head_for_image_pairs(vqa: Case, tmp_path: Path) -> None:
    model = FAMILY.build(vqa.config, Head("pair", ("False", "True")), seed=0)
    report = FAMILY.load(model, _saved(vqa, tmp_path / "BEST.pth"))
    assert report.head == "fresh"
    assert any("answer_head.*" in note for note in report.notes)


def _gradients(norms: Mapping[str, float], model: nn.Module, loss: Tensor) -> None:
    loss.backward()
    own = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    for name, norm in norms.items():
        ours = name.removeprefix("lxrt_encoder.model.").replace("bert.", "lxmert.", 1)
        ours = f"answer_head.{ours}" if ours.startswith("logit_fc.") else ours
        torch.testing.assert_close(own[ours].norm().item(), norm, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.evidence("parity", "lxmert-nlvr2")
def test_image_pairs_give_the_official_outputs(vqa: Case, tmp_path: Path) -> None:
    case = FIXTURES / "nlvr2"
    expected, meta = load_file(case / "expected.safetensors"), json.loads((case / "meta.json").read_text())
    backbone = {name: value for name, value in vqa.weights.items() if not name.startswith("logit_fc.")}
    torch.save(backbone | load_file(case / "weights.safetensors"), tmp_path / "BEST.pth")
    model = FAMILY.build(vqa.config, Head("pair", ("False", "True")), seed=0).eval()
    assert FAMILY.load(model, str(tmp_path / "BEST.pth")).head == "loaded"
    texts = {name: vqa.batch[name][[0, 0, 1, 1]] for name in ("input_ids", "attention_mask")}
    logits = FAMILY.logits(model, vqa.batch | texts)
    torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=0)
    _gradients(meta["grad_norms"], model, cross_entropy(logits, expected["labels"]))


@pytest.mark.evidence("parity", "lxmert-pretraining")
def test_pretraining_losses_are_the_official_ones(qa_load: Case, tmp_path: Path) -> None:
    case = FIXTURES / "pretraining"
    drawn, expected = (load_file(case / f"{part}.safetensors") for part in ("inputs", "expected"))
    model = qa_load.model("pretraining", qa_load.meta["pretrain_num_answers"])
    FAMILY.load(model, _saved(qa_load, tmp_path / "model_LXRT.pth"))
    features, asked = qa_load.batch["visual_feats"], drawn["features_asked"]
    inputs = qa_load.batch | {"input_ids": drawn["hidden_ids"], "visual_feats": features * (1 - asked)[..., None]}
    targets = {**drawn, "asked": places(drawn["words"] != NOTHING), "features": features}
    losses = PretrainingObjective((), WordPiece(())).losses(model, Batch(inputs, targets))
    assert tuple(losses) == LOSSES
    torch.testing.assert_close(torch.stack(list(losses.values())), expected["losses"], atol=1e-5, rtol=1e-6)
    meta = json.loads((case / "meta.json").read_text())
    _gradients(meta["grad_norms"], model, sum(losses.values(), torch.zeros(())))

"""LXMERT against reference outputs of the official code, loaded from the official file layouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from vlcompress.models.lxmert import LxmertFamily, encode
from vlcompress.models.lxmert_answers import load_answer_head, table_answer

if TYPE_CHECKING:
    from tests.models.conftest import Case

FAMILY = LxmertFamily()


def _saved(case: Case, path: Path) -> str:
    torch.save(case.weights, path)
    return str(path)


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

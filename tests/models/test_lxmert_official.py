"""LXMERT against reference outputs of the official code, loaded from the official file layouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.lxmert.answers import load_answer_head, table_answer
from vlcompress.models.lxmert.model import encode

if TYPE_CHECKING:
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


def test_image_pairs_go_side_by_side_through_a_wider_head(vqa: Case, tmp_path: Path) -> None:
    """NLVR2Model: rows in turn left and right, pooled outputs joined, Linear(2H, 2H), GELU, LayerNorm, Linear."""
    width = 2 * vqa.meta["bert_config"]["hidden_size"]
    shapes = {"0.weight": (width, width), "0.bias": (width,), "2.weight": (width,), "2.bias": (width,)}
    shapes |= {"3.weight": (2, width), "3.bias": (2,)}
    rng = torch.Generator().manual_seed(0)
    head = {f"logit_fc.{name}": torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    snapshot = {name: value for name, value in vqa.weights.items() if not name.startswith("logit_fc.")} | head
    torch.save(snapshot, tmp_path / "BEST.pth")
    model = FAMILY.build(vqa.config, Head("pair", ("False", "True")), seed=0).eval()
    assert FAMILY.load(model, str(tmp_path / "BEST.pth")).head == "loaded"
    with torch.no_grad():
        logits = FAMILY.logits(model, vqa.batch)
        pooled_BH = vqa.expected["pooled"]
        x = torch.cat([pooled_BH[0::2], pooled_BH[1::2]], dim=1)
        x = torch.nn.functional.gelu(x @ head["logit_fc.0.weight"].T + head["logit_fc.0.bias"])
        x = torch.nn.functional.layer_norm(x, (width,), head["logit_fc.2.weight"], head["logit_fc.2.bias"], 1e-12)
    expected = x @ head["logit_fc.3.weight"].T + head["logit_fc.3.bias"]
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


def test_a_vqa_head_is_no_head_for_image_pairs(vqa: Case, tmp_path: Path) -> None:
    model = FAMILY.build(vqa.config, Head("pair", ("False", "True")), seed=0)
    report = FAMILY.load(model, _saved(vqa, tmp_path / "BEST.pth"))
    assert report.head == "fresh"
    assert any("answer_head.*" in note for note in report.notes)

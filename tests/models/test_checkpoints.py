"""Loading is strict: every difference that is not a task head is an error that names it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertForPreTraining

from vlcompress.errors import VlcompressError
from vlcompress.models.checkpoints import listing, renamed
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.models.lxmert.answers import load_answer_head

if TYPE_CHECKING:
    from tests.models.conftest import Case

FAMILY = LxmertFamily()
WEIGHT = "lxmert.encoder.layer.0.intermediate.dense.weight"


@pytest.fixture
def weights(vqa: Case) -> dict[str, Tensor]:
    """The fine-tuned snapshot under transformers' names."""
    rules = ((r"^lxrt_encoder\.model\.bert\.", "lxmert."), (r"^logit_fc\.", "answer_head.logit_fc."))
    return renamed(vqa.weights, rules)


def _file(tensors: dict[str, Tensor], path: Path) -> str:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return str(path)


def _error(model: nn.Module, checkpoint: str) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(VlcompressError) as caught:
        FAMILY.load(model, checkpoint)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    return str(caught.value)


def test_hugging_face_folder_of_each_format(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    one, sharded, pickled = (tmp_path / name for name in ("one", "sharded", "pickled"))
    for folder in (one, sharded, pickled):
        folder.mkdir()
    _file(weights, one / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    names = sorted(weights)
    _file({name: weights[name] for name in names[:9]}, sharded / "a.safetensors")
    _file({name: weights[name] for name in names[9:]}, sharded / "b.safetensors")
    index = {"weight_map": {name: "a.safetensors" if name in names[:9] else "b.safetensors" for name in names}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    for folder in (one, sharded, pickled):
        model = vqa.model()
        assert FAMILY.load(model, str(folder)).loaded == len(weights)
        assert torch.equal(model.state_dict()[WEIGHT], weights[WEIGHT])


def test_folder_that_transformers_saved_loads_with_its_tied_weight(qa_load: Case, tmp_path: Path) -> None:
    saved = LxmertForPreTraining(LxmertConfig(**qa_load.config | {"num_qa_labels": 11}))
    saved.save_pretrained(tmp_path)
    model = qa_load.model("pretraining", 11)
    assert FAMILY.load(model, str(tmp_path)).head == "loaded"
    for name, tensor in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_two_different_tensors_for_one_tied_weight_are_refused(qa_load: Case, tmp_path: Path) -> None:
    saved = dict(LxmertForPreTraining(LxmertConfig(**qa_load.config | {"num_qa_labels": 11})).state_dict())
    saved = {name: tensor.clone() for name, tensor in saved.items()}
    saved["cls.predictions.decoder.weight"] += 1
    error = _error(qa_load.model("pretraining", 11), _file(saved, tmp_path / "x.safetensors"))
    assert "two different tensors 'lxmert.embeddings.word_embeddings.weight' and 'cls.predictions.decoder" in error


def test_missing_and_unexpected_tensors_are_listed(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights[WEIGHT]
    weights["lxmert.encoder.layer.9.extra.weight"] = torch.zeros(2)
    error = _error(vqa.model(), _file(weights, tmp_path / "x.safetensors"))
    assert f"missing: {WEIGHT};" in error
    assert "unexpected: lxmert.encoder.layer.9.extra.weight" in error
    assert "Choose the model, size" in error


def test_part_of_a_head_is_an_error(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights["answer_head.logit_fc.3.bias"]
    assert "missing: answer_head.logit_fc.3.bias." in _error(vqa.model(), _file(weights, tmp_path / "x.safetensors"))


def test_another_architecture_names_both_shapes(qa_load: Case, vqa: Case, tmp_path: Path) -> None:
    torch.save(vqa.weights, tmp_path / "BEST.pth")
    error = _error(qa_load.model(), str(tmp_path / "BEST.pth"))
    assert "lxmert.embeddings.LayerNorm.bias is [28] there, [32] here" in error
    assert re.search(r"here … and \d+ more; missing|here … and \d+ more; unexpected", error)
    assert "lxmert.encoder.layer.1." in error  # layers that this model does not have


def test_head_of_another_task_stays_fresh(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = _file(weights, tmp_path / "x.safetensors")
    model = vqa.model(answers=4)
    before = model.get_submodule("answer_head").state_dict()["logit_fc.0.weight"].clone()
    report = FAMILY.load(model, path)
    assert report.head == "fresh"
    assert report.notes == ("answer_head.* stays fresh: its answer_head.logit_fc.3.bias is [13] there, [4] here",)
    assert torch.equal(model.get_submodule("answer_head").state_dict()["logit_fc.0.weight"], before)
    assert torch.equal(model.state_dict()[WEIGHT], weights[WEIGHT])


def test_head_that_fits_stays_fresh_when_asked(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    model = vqa.model()
    before = {name: tensor.clone() for name, tensor in model.get_submodule("answer_head").state_dict().items()}
    report = FAMILY.load(model, _file(weights, tmp_path / "x.safetensors"), fresh_head=True)
    assert (report.head, report.notes) == ("fresh", ("the task head stays fresh, as asked",))
    assert all(torch.equal(before[name], t) for name, t in model.get_submodule("answer_head").state_dict().items())
    assert torch.equal(model.state_dict()[WEIGHT], weights[WEIGHT])


def test_backbone_alone_leaves_every_head_fresh(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    backbone = {name: tensor for name, tensor in weights.items() if name.startswith("lxmert.")}
    report = FAMILY.load(vqa.model("pretraining"), _file(backbone, tmp_path / "x.safetensors"))
    assert report.head == "fresh"
    assert len(report.notes) == 3


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_cut_file_is_an_error(vqa: Case, weights: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.pth":
        torch.save(weights, path)
    else:
        _file(weights, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged" in _error(vqa.model(), str(path))


class _Runs:
    """Copies a file when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return shutil.copyfile, (str(self.folder / "x.pth"), str(self.folder / "copied"))


def test_no_code_in_a_file_is_run(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"hook": _Runs(tmp_path)}, tmp_path / "x.pth")
    assert "holds no state dict" in _error(vqa.model(), str(tmp_path / "x.pth"))
    torch.save({"hook": _Runs(tmp_path), "state_dict": weights}, tmp_path / "x.pth")
    assert FAMILY.load(vqa.model(), str(tmp_path / "x.pth")).loaded == len(weights)
    assert not (tmp_path / "copied").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"step": 3}])
def test_file_without_a_state_dict_is_an_error(vqa: Case, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert "holds no state dict" in _error(vqa.model(), str(tmp_path / "x.pth"))


def test_state_dict_inside_a_training_checkpoint_is_found(
    vqa: Case, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "x.ckpt")
    assert FAMILY.load(vqa.model(), str(tmp_path / "x.ckpt")).loaded == len(weights)


def test_places_without_a_checkpoint(vqa: Case, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "holds no weights" in _error(vqa.model(), str(tmp_path))
    assert "must end in" in _error(vqa.model(), str(tmp_path / "notes.txt"))
    assert "no checkpoint at" in _error(vqa.model(), "missing/model_LXRT.pth")


def test_hub_out_of_reach_is_explained(vqa: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **_: object) -> str:
        raise LocalEntryNotFoundError(f"cannot reach the hub for {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    error = _error(vqa.model(), "owner/model")
    assert "'owner/model' is no local path" in error
    assert "check the name and the network" in error


def test_hub_name_loads_from_its_snapshot(
    vqa: Case, weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert FAMILY.load(vqa.model(), "owner/model").source == "owner/model"


def test_answer_head_needs_lists_of_its_own_length(qa_load: Case, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(qa_load.weights, path)
    labels = qa_load.meta["label2ans"]
    with pytest.raises(VlcompressError, match="2 checkpoint's answers for 11 rows"):
        load_answer_head(qa_load.model(), str(path), answers=["yes", "no"], labels=labels)
    with pytest.raises(VlcompressError, match="12 labels for 13 rows"):
        load_answer_head(qa_load.model(), str(path), answers=list("abcdefghijk"), labels=labels[1:])


def test_two_tensors_with_one_name_are_an_error() -> None:
    with pytest.raises(VlcompressError, match=r"'a\.weight' twice"):
        renamed({"a.weight": torch.zeros(1), "module.a.weight": torch.ones(1)}, ((r"^module\.", ""),))


def test_listing_spells_out_ten_names() -> None:
    assert listing(["b", "a"]) == "a, b"
    assert listing(f"{number:02}" for number in range(12)).endswith("08, 09 … and 2 more")

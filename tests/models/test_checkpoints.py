"""Loading is strict: every difference that is not a task head is an error that names it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
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


Changed = Callable[[dict[str, Tensor]], object]


def _renamed(change: Callable[[str], str]) -> Changed:
    return lambda weights: {change(name): tensor for name, tensor in weights.items()}


WRAPPED: dict[str, Changed] = {
    "DataParallel": _renamed(lambda name: f"module.{name}"),
    "compiled": _renamed(lambda name: f"_orig_mod.{name}"),
    "compiled, then parallel": _renamed(lambda name: f"module._orig_mod.{name}"),
    "layers compiled": _renamed(lambda name: name.replace("layer.0.", "layer.0._orig_mod.")),
    "MoCo": lambda weights: {"state_dict": weights, "epoch": 800, "arch": "resnet50"},
    "DeiT": lambda weights: {"model": weights, "epoch": 3},
    "PyTorch's tutorial": lambda weights: {"model_state_dict": weights, "loss": 0.5},
    "DeepSpeed": lambda weights: {"module": weights},
}
"""State dicts as they are saved in the wild."""


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_others_wrap_around_a_state_dict_is_taken_off(
    vqa: Case, weights: dict[str, Tensor], tmp_path: Path, kind: str
) -> None:
    torch.save(WRAPPED[kind](weights), tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    model = vqa.model()
    report = FAMILY.load(model, str(tmp_path / "moco_v2_800ep_pretrain.pth.tar"))
    assert (report.loaded, report.head) == (len(weights), "loaded")
    assert torch.equal(model.state_dict()[WEIGHT], weights[WEIGHT])


def test_a_base_model_saved_alone_leaves_the_head_fresh(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    alone = {name.removeprefix("lxmert."): one for name, one in weights.items() if name.startswith("lxmert.")}
    model = vqa.model()
    report = FAMILY.load(model, _file(alone, tmp_path / "x.safetensors"))
    assert (report.loaded, report.head) == (len(alone), "fresh")
    assert torch.equal(model.state_dict()[WEIGHT], weights[WEIGHT])


def test_weights_that_pytorch_pruned_are_masked(vqa: Case, weights: dict[str, Tensor], tmp_path: Path) -> None:
    mask = (torch.arange(weights[WEIGHT].numel()).reshape(weights[WEIGHT].shape) % 2).float()
    dense = weights.pop(WEIGHT)
    torch.save(weights | {f"{WEIGHT}_orig": dense, f"{WEIGHT}_mask": mask}, tmp_path / "x.pth")
    model = vqa.model()
    FAMILY.load(model, str(tmp_path / "x.pth"))
    assert torch.equal(model.state_dict()[WEIGHT], dense * mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: (one * 127).to(torch.int8), "holds int8 where weights are floating-point: .*It is quantised"),
        (lambda one: one.to(torch.float8_e4m3fn), "holds float8_e4m3fn where weights are floating-point"),
        (lambda one: one.to_sparse(), "holds sparse or quantised tensors, which are not read: .*save them dense"),
        (lambda one: torch.quantize_per_tensor(one, 0.1, 0, torch.qint8), "holds sparse or quantised tensors"),
        (lambda one: one * float("nan"), "holds NaN or infinity in "),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_no_weights_are_refused_by_name(
    vqa: Case, weights: dict[str, Tensor], tmp_path: Path, change: Callable[[Tensor], Tensor], message: str
) -> None:
    torch.save(weights | {WEIGHT: change(weights[WEIGHT])}, tmp_path / "x.pth")
    error = _error(vqa.model(), str(tmp_path / "x.pth"))
    assert re.search(message, error)
    assert WEIGHT in error


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
        renamed({"a.weight": torch.zeros(1), "module.a.weight": torch.ones(1)}, ())


def test_a_tied_weight_may_be_there_under_both_names() -> None:
    assert list(renamed({"a.bias": torch.ones(1), "b.bias": torch.ones(1)}, ((r"^a\.", "b."),))) == ["b.bias"]


def test_listing_spells_out_ten_names() -> None:
    assert listing(["b", "a"]) == "a, b"
    assert listing(f"{number:02}" for number in range(12)).endswith("08, 09 … and 2 more")

"""Masks as other people's code writes them are read to the bit, written back, and never executed."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.mask_files import FORMATS, read_masks, write_masks

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pruning"
MASKS = {"a.weight": torch.tensor([[True, False], [False, True]]), "b.weight": torch.tensor([True, False, False])}
WEIGHTS = {"a.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "b.weight": torch.tensor([3.0, 0.0, 0.0])}


def layout(case: str, key: str) -> list[tuple[str, list[int], int]]:
    found: list[tuple[str, list[int], int]] = json.loads((FIXTURES / case / "meta.json").read_text())[key]
    return found


@pytest.mark.parametrize(
    ("file", "vectors", "key", "layout_key"),
    [
        ("bert_tickets_3rounds/mask.pt", "rounds", "round3/mask", "layout_name_shape_offset"),
        ("cv_lth_3rounds/model_SA_best.pth.tar", "rounds", "round3/mask", "layout_mask_name_shape_offset"),
        (
            "paper_b_low/Low_Magnitude-30_percentage_mask.npz",
            "case",
            "low_30/mask_pruned1",
            "layout_mask_name_shape_offset",
        ),
    ],
)
def test_a_published_file_is_read_to_the_bit(file: str, vectors: str, key: str, layout_key: str) -> None:
    case = file.partition("/")[0]
    flat = load_file(FIXTURES / case / f"{vectors}.safetensors")[key]
    keep = flat == 0 if key.endswith("pruned1") else flat == 1  # Hashemi et al. write 1 for pruned
    found = read_masks(FIXTURES / file)
    expected = layout(case, layout_key)
    if case == "paper_b_low":
        positions = [name for name, _, _ in layout(case, "layout_all_name_shape_offset")]
        found = {positions[int(position)]: mask for position, mask in found.items()}
    assert sorted(found) == sorted(name for name, _, _ in expected)
    for name, shape, offset in expected:
        size = int(np.prod(shape))
        assert torch.equal(found[name], keep[offset : offset + size].view(shape)), name


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"masks{FORMATS[form]}"
    write_masks(path, form, MASKS, WEIGHTS | {"c": torch.ones(2)})
    found = read_masks(path)
    assert found.keys() == MASKS.keys()
    assert all(torch.equal(found[name], mask) for name, mask in MASKS.items())


def test_torch_itself_writes_and_reads_the_same(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    prune.random_unstructured(model, "weight", 0.5)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "theirs.pth.tar")
    found = read_masks(tmp_path / "theirs.pth.tar")
    assert torch.equal(found["weight"], model.state_dict()["weight_mask"].bool())
    write_masks(tmp_path / "ours.pt", "torch-prune", found, {"weight": model.weight.detach(), "bias": model.bias})
    again = nn.Linear(4, 3)
    prune.identity(again, "weight")
    again.load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True))
    again(torch.zeros(1, 4))
    assert torch.equal(again.weight, model.weight)


def test_this_projects_own_file_is_read(tmp_path: Path) -> None:
    Masks(MASKS).save(tmp_path / "mask.safetensors")
    assert all(torch.equal(MASKS[name], mask) for name, mask in read_masks(tmp_path / "mask.safetensors").items())


class Planted:
    def __reduce__(self) -> Any:
        return os.system, ("touch planted",)


def packed(content: Any, path: Path) -> Path:
    """Write what `np.savez` of an object writes, whatever the object is."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue() + pickle.dumps(content))
    return path


@pytest.mark.parametrize("content", [Planted(), {"a": Planted()}, [{"a": np.zeros(2), "b": Planted()}]])
def test_code_in_an_archive_is_refused_and_does_not_run(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VlcompressError, match=r"is refused: it names .*; only arrays are read, nothing is executed"):
        read_masks(packed(content, tmp_path / "bad.npz"))
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("content", [{"a": 1}, [], 3, {"a": np.array([object()])}, {"a": np.dtype("f4")}, np.zeros(3)])
def test_other_objects_in_an_archive_are_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=r"bad.npz' (is refused|is not a whole)"):
        read_masks(packed(content, tmp_path / "bad.npz"))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.int64, np.float32, np.bool_, ">i4"])
def test_arrays_of_numbers_in_an_archive_are_read_in_any_order(order: Any, kind: Any, tmp_path: Path) -> None:
    array = np.asarray([[1, 0, 1], [0, 0, 1]], dtype=kind, order=order)
    path = tmp_path / "masks.npz"
    np.savez(path, np.array({"w": array}, dtype=object))
    assert torch.equal(read_masks(path)["w"], torch.from_numpy(array.astype(bool)))


def test_code_in_a_state_dict_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a.weight_mask": torch.ones(2), "b": Planted()}, tmp_path / "bad.pt")
    with pytest.raises(VlcompressError, match=r"bad.pt' (holds no state dict|is not a readable PyTorch)"):
        read_masks(tmp_path / "bad.pt")
    assert not (tmp_path / "planted").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "content",
    [b"hello world junk", b"", b"]q.", pickle.dumps(Planted()), pickle.dumps({"a": print}, protocol=2)],
    ids=["text", "nothing", "cut", "code", "a name"],
)
def test_what_is_no_state_dict_is_one_line_without_advice_to_run_it(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(VlcompressError, match=r"bad.pt' (holds no state dict|is not a readable PyTorch)") as caught:
        read_masks(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)
    assert not any(words in str(caught.value) for words in ("weights_only", "still be loaded"))
    assert not (tmp_path / "planted").exists()


def saved(name: str, tensors: dict[str, Tensor], folder: Path) -> Path:
    save_file(tensors, folder / name)
    return folder / name


def test_other_files_are_one_line(tmp_path: Path) -> None:
    cases = {
        "no masks at": tmp_path / "none.pt",
        "other values than 0 and 1: no name in the file ends": saved("w.safetensors", {"w": torch.randn(3)}, tmp_path),
        "other values than 0 and 1: it is no mask": saved("m.safetensors", {"w_mask": torch.randn(3)}, tmp_path),
        "holds no masks: it is empty": saved("e.safetensors", {}, tmp_path),
    }
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    (tmp_path / "masks.txt").write_text("1 0 1")
    cases |= {
        "is not a whole .npz archive": tmp_path / "cut.npz",
        "is not a readable safetensors file": tmp_path / "cut.safetensors",
        "is no kind of checkpoint": tmp_path / "masks.txt",
    }
    for said, path in cases.items():
        with pytest.raises(VlcompressError, match=said) as caught:
            read_masks(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(VlcompressError, match="unknown format of masks 'onnx'"):
        write_masks(tmp_path / "x", "onnx", MASKS, WEIGHTS)


def test_masks_in_which_one_means_pruned_are_turned(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1, 0, 0])}, tmp_path / "theirs.safetensors")
    assert read_masks(tmp_path / "theirs.safetensors", inverted=True)["w"].tolist() == [False, True, True]
    save_file({"0": torch.tensor([1, 0])}, tmp_path / "places.safetensors")
    with pytest.raises(VlcompressError, match="masks by position, in which 1 is known to mean pruned: leave --inv"):
        read_masks(tmp_path / "places.safetensors", inverted=True)

"""Verification samples: kept as they were, and a folder that answers otherwise is refused wherever it is opened."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.conftest import make_ticket
from vlcompress.artefacts import seal, unseal
from vlcompress.errors import VerificationError, VlcompressError
from vlcompress.export.onnx import export_onnx
from vlcompress.export.parity import Parity, repeated
from vlcompress.export.samples import FILE, ROWS, Samples, check_samples, read_samples, write_samples
from vlcompress.export.verification import STORED, has_truth, verify_folder
from vlcompress.serve.app import create_app
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.sparse.timing import Effort

X = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ticket, folder = make_ticket((1, 1), 0.5, batch=6), tmp_path_factory.mktemp("exported") / "onnx"
    quick = Effort(rounds=1, burst_s=0.0, warmup=0)
    export_onnx(
        ticket.family, ticket.model, folder, [ticket.inputs], config=ticket.config, head=ticket.head, effort=quick
    )
    return folder


def altered(exported: Path, folder: Path) -> Path:
    """Copy an exported folder, add 1 to a bias of its last layer, and seal it anew."""
    shutil.copytree(exported, folder)
    model = onnx.load(folder / "model.onnx")
    tensor = next(one for one in model.graph.initializer if one.name.endswith("logit_fc.3.bias"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
    onnx.save(model, folder / "model.onnx")
    document = unseal(folder, "manifest.json", check=False)
    seal(folder, "manifest.json", {key: value for key, value in document.items() if key != "files"})
    return folder


def test_the_first_rows_come_back_with_what_the_file_answered(tmp_path: Path) -> None:
    write_samples(tmp_path, {"x": X}, lambda inputs: 2 * inputs["x"])
    found = read_samples(tmp_path)
    assert found is not None
    assert found.inputs.keys() == {"x"}
    assert np.array_equal(found.inputs["x"], X[:ROWS])
    assert np.array_equal(found.expected, 2 * X[:ROWS])


def test_samples_are_the_same_bytes_whenever_they_are_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_samples(tmp_path / name, {"x": X}, lambda inputs: inputs["x"])
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_a_folder_without_samples_has_none_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert read_samples(tmp_path) is None
    np.savez(tmp_path / FILE, other=X)
    for content in (None, b"not an archive", (tmp_path / FILE).read_bytes()[:40]):
        if content is not None:
            (tmp_path / FILE).write_bytes(content)
        with pytest.raises(VlcompressError, match=r"holds no verification samples .*: export the model again"):
            read_samples(tmp_path)


@pytest.mark.parametrize(("precision", "provider", "allowed"), [
    ("fp32", "cpu", 1e-4), ("fp32", "cuda", 1e-4), ("fp32", "cuda,use_tf32=1", 0.02), ("fp32", "tensorrt", 0.02),
    ("fp16", "cpu", 0.02), ("int8", "cpu", 0.05),
])  # fmt: skip
def test_rounding_passes_and_no_more(precision: Any, provider: str, allowed: float) -> None:
    assert repeated(precision, provider).relative == allowed
    samples = Samples({"x": X}, X)
    check_samples(samples, lambda inputs: inputs["x"] + np.float32(0.9 * allowed * 11), precision, provider)
    with pytest.raises(VerificationError, match="answers otherwise here than where it was exported: export it on this"):
        check_samples(samples, lambda inputs: inputs["x"] + np.float32(1.1 * allowed * 11), precision, provider)


def test_a_copied_folder_is_verified_by_itself(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "elsewhere")
    assert not has_truth(copy / "model.onnx", None)
    assert has_truth(copy / "model.onnx", tmp_path)
    found = verify_folder(copy / "model.onnx")
    assert found.parity == {STORED: Parity(ROWS, max_abs_error=0.0, max_rel_error=0.0, answer_agreement=1.0)}
    (copy / FILE).unlink()
    with pytest.raises(VlcompressError, match="is missing from its artefact"):
        verify_folder(copy / "model.onnx")


def test_an_older_folder_without_samples_says_what_to_do(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "older")
    document = unseal(copy, "manifest.json")
    (copy / FILE).unlink()
    seal(copy, "manifest.json", {key: value for key, value in document.items() if key != "files"})
    with pytest.raises(VlcompressError, match="exported before samples were kept: give its run with --run, or export"):
        verify_folder(copy / "model.onnx")


def test_a_folder_that_answers_otherwise_is_neither_verified_nor_served(exported: Path, tmp_path: Path) -> None:
    folder = altered(exported, tmp_path / "wrong")
    with pytest.raises(VerificationError, match="answers otherwise here"):
        verify_folder(folder / "model.onnx")
    settings = Settings((ModelSpec("m", folder),), threads=1, sessions=1)
    with pytest.raises(VlcompressError, match="answers otherwise here"):
        create_app(settings).state.server.load()

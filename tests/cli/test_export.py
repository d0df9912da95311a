"""Every way to write a file, as a user types it, and the check that can be repeated."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from vlcompress.artefacts import read_json, seal, unseal
from vlcompress.cli.main import main
from vlcompress.tickets.run import newest_run


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [*arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def home(tiny_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one compiled run."""
    folder = tmp_path_factory.mktemp("home")
    prune = ["prune", "--size", "tiny", "--data", str(tiny_scenes), "--pattern", "attention=block:16x8,ffn=neuron"]
    for arguments in (
        [*prune, "--steps", "4", "--sparsity", "0.4", "--schedule", "oneshot"],
        ["compile", "--batch", "4"],
    ):
        code, _, err = run(*arguments, "--home", str(folder))
        assert code == 0, err
    return folder


def exported(home: Path, *flags: str, folder: str = "onnx") -> tuple[dict[str, Any], Path, str]:
    """Export; give the manifest, the file and what was printed."""
    code, out, err = run("export", "--batch", "8", *flags, "--home", str(home))
    assert code == 0, err
    artefact = newest_run(home).folder / folder
    return read_json(artefact / "manifest.json"), artefact / "model.onnx", out


@pytest.fixture(scope="module")
def explained(home: Path) -> tuple[dict[str, Any], Path, str]:
    """The file as it is written by default, with all that is said about it."""
    return exported(home, "--explain")


@pytest.fixture(scope="module")
def file(explained: tuple[dict[str, Any], Path, str]) -> Path:
    """The file as it is written by default."""
    return explained[1]


def test_explain_says_for_every_layer_what_was_measured(
    explained: tuple[dict[str, Any], Path, str], home: Path
) -> None:
    manifest, _, out = explained
    for layer in manifest["layers"]:
        assert f"{layer['name'].removesuffix('.weight')}: " in out
        assert layer["choice"]["why"] in out
    assert "the masked dense weights zipped" in out
    code, out, _ = run("compile", "--batch", "4", "--explain", "--home", str(home))
    assert code == 0
    plan = read_json(newest_run(home).folder / "compiled" / "plan.json")["plan"]
    assert out.count(", because ") == len(plan["layers"]) == 29


def test_verify_repeats_the_gate_and_notices_changes(file: Path, home: Path, tmp_path: Path) -> None:
    code, out, err = run("verify", str(file))
    assert code == 0, err
    assert "samples: 64 examples, answers agree on 100.0 %" in out
    assert "random shapes: 8 examples" in out
    code, newest, err = run("verify", "--home", str(home))
    assert (code, newest) == (0, out), err
    assert f"newest run: {file.parent.parent}" in err
    moved = tmp_path / "elsewhere"
    shutil.copytree(file.parent, moved)
    assert run("verify", str(moved), "--run", str(newest_run(home).folder))[0] == 0
    code, out, err = run("verify", str(moved))
    assert (code, "stored samples: 4 examples, answers agree on 100.0 %, max abs error 0.0e+00" in out) == (0, True), (
        err
    )
    assert "have no effect without the PyTorch model" in run("verify", str(moved), "--dtype", "bf16")[2]
    altered = moved / "model.onnx"
    altered.write_bytes(altered.read_bytes()[:-1] + b"x")
    code, _, err = run("verify", str(altered), "--run", str(newest_run(home).folder))
    assert (code, "is corrupted" in err) == (2, True)


def test_verify_refuses_a_file_of_another_recipe(file: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(file.parent, tmp_path / "other")
    document = unseal(tmp_path / "other", "manifest.json") | {"recipe_sha256": "0" * 64}
    seal(tmp_path / "other", "manifest.json", {key: value for key, value in document.items() if key != "files"})
    code, _, err = run("verify", str(tmp_path / "other" / "model.onnx"), "--run", str(newest_run(home).folder))
    assert (code, "was not exported from run" in err) == (2, True)


def test_verify_exits_with_3_for_a_file_that_computes_something_else(file: Path, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(file.parent, folder)
    model = onnx.load(folder / "model.onnx")
    tensor = next(one for one in model.graph.initializer if one.name.endswith("logit_fc.3.bias"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
    onnx.save(model, folder / "model.onnx")
    seal(
        folder, "manifest.json", {k: v for k, v in unseal(folder, "manifest.json", check=False).items() if k != "files"}
    )
    code, _, err = run("verify", str(folder / "model.onnx"), "--run", str(newest_run(home).folder))
    assert code == 3
    assert "the file does not compute what the PyTorch model does" in err
    assert (tmp_path / "wrong.failed" / "worst.safetensors").is_file()


@pytest.mark.parametrize(("flags", "folder"), [(("--quantize", "int8"), "onnx-int8"), (("--fp16",), "onnx-fp16")])
def test_lower_precision_is_scored_on_the_task_and_lies_beside(home: Path, flags: tuple[str, ...], folder: str) -> None:
    manifest, file, out = exported(home, *flags, folder=folder)
    task = manifest["task_score"]
    assert task["file"] >= 0.99 * task["fp32"]
    assert task["drop"] == pytest.approx(task["fp32"] - task["file"])
    assert f"a drop of {100 * task['drop']:.2f} points" in out
    assert not any(layer["form"].startswith("transposed") for layer in manifest["layers"])
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert ("MatMulInteger" in kinds) == (folder == "onnx-int8")
    assert run("verify", str(file))[0] == 0


def test_an_expanded_file_is_plain_onnx_and_a_target_sets_opset_and_format(home: Path) -> None:
    manifest, file, _ = exported(home, "--expand", "--target-ort", "1.16")
    model = onnx.load(file)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 19}
    assert (model.ir_version, len(model.functions)) == (9, 0)
    assert (manifest["opset"], manifest["expanded"]) == (19, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--opset", "3"), "unknown opset '3': allowed are 18, 19, 20, 21, 22"),
        (("--target-ort", "0.9"), "unknown onnxruntime release '0.9': allowed are"),
        (("--opset", "22", "--target-ort", "1.17"), "opset 22 is too new for onnxruntime 1.17: it reads up to 20"),
        (("--provider", "tpu"), "unknown provider 'tpu': allowed are"),
        (("--provider", "cuda"), "it has cpu"),
        (("--fp16", "--quantize", "int8"), "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(home: Path, flags: tuple[str, ...], message: str) -> None:
    code, _, err = run("export", *flags, "--home", str(home))
    assert code == 2
    assert message in err
    assert err.strip().count("\n") <= 1
    assert json.dumps(err)

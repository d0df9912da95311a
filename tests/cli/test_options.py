"""Device, dtype and provider: what a machine lacks is one line, exit code 2, and nothing written, in every command."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from vlcompress.cli.main import main

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")

TRAINING = {
    "prune": ["prune", "--size", "tiny"],
    "pretrain": ["pretrain", "--size", "tiny", "--pictures", "4"],
    "study": ["study", "tickets", "--size", "tiny"],
}
ANSWERING = {
    "compile": ["compile"],
    "bench": ["bench"],
    "predict": ["predict", "--split", "test", "--out", "test.json"],
    "serve": ["serve", "--backend", "torch"],
}
WITHOUT_HOME = {
    "verify": ["verify", "model.onnx"],
    "speed": ["speed", "--size", "tiny"],
}
PROVIDING = {
    "export": ["export"],
    "export triton": ["export", "--format", "triton"],
    "bench": ["bench"],
    **WITHOUT_HOME,
}


def spelled(value: object) -> str:
    """Name a case by its options."""
    return " ".join(value) if isinstance(value, list) else ""


NO_GPU = "torch sees no GPU: use --device cpu or auto"
DEVICES = [
    (["--device", "cuda"], f"device 'cuda' was asked for, but {NO_GPU}"),
    (["--device", "cuda:7"], f"device 'cuda:7' was asked for, but {NO_GPU}"),
    (["--device", "tpu"], "unknown device 'tpu': allowed are auto, cpu, cuda, cuda:N"),
    (
        ["--device", "cpu", "--dtype", "tf32"],
        "dtype tf32 is a mode of NVIDIA tensor cores: use fp32 or bf16 on the CPU",
    ),
    (["--dtype", "int8"], "unknown dtype 'int8': allowed are bf16, fp16, fp32, tf32"),
]
PROVIDERS = [
    (["--provider", "cuda"], "provider 'cuda' is not in this onnxruntime"),
    (["--provider", "tensorrt"], "provider 'tensorrt' is not in this onnxruntime"),
    (["--provider", "tpu"], "unknown provider 'tpu': allowed are cpu, cuda, tensorrt"),
    (["--provider", "cpu", "--provider-option", "use_tf32"], "provider option 'use_tf32' is not KEY=VALUE"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that whatever is written is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments: list[str], here: Path) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not list(here.iterdir())
    return result.stderr.removeprefix("error: ").rstrip()


@pytest.mark.parametrize("name", [*TRAINING, *ANSWERING, *WITHOUT_HOME])
@pytest.mark.parametrize(("options", "text"), DEVICES, ids=spelled)
def test_a_device_or_dtype_that_is_not_there(here: Path, name: str, options: list[str], text: str) -> None:
    command = {**TRAINING, **ANSWERING, **WITHOUT_HOME}[name]
    assert refused([*command, *options], here).startswith(text)


@pytest.mark.parametrize("name", TRAINING)
def test_float16_does_not_train_on_the_cpu(here: Path, name: str) -> None:
    said = refused([*TRAINING[name], "--device", "cpu", "--dtype", "fp16"], here)
    assert said == "dtype fp16 does not train on the CPU: use bf16 or fp32, or a GPU"


@pytest.mark.parametrize("name", PROVIDING)
@pytest.mark.parametrize(("options", "text"), PROVIDERS, ids=spelled)
def test_a_provider_that_is_not_there(here: Path, name: str, options: list[str], text: str) -> None:
    assert refused([*PROVIDING[name], *options], here).startswith(text)


def test_serve_reads_providers_likewise(here: Path) -> None:
    assert "allowed are cpu, cuda, openvino, tensorrt" in refused(["serve", "--provider", "tpu"], here)
    assert "is not KEY=VALUE" in refused(["serve", "--provider-option", "=1"], here)


@pytest.mark.parametrize("name", ["verify", "bench"])
def test_an_option_of_no_provider(here: Path, name: str) -> None:
    said = refused([*PROVIDING[name], "--provider-option", "use_tf32=1"], here)
    assert said == "provider option 'use_tf32' is of no provider: name it with --provider"


def test_what_has_no_effect_is_told() -> None:
    told = CliRunner().invoke(main, ["serve", "--backend", "onnx", "--dtype", "bf16"]).stderr
    assert "warning: device auto and dtype bf16 have no effect on --backend onnx: give --provider" in told
    told = CliRunner().invoke(main, ["export", "--provider", "cpu", "--provider-option", "a=b"]).stderr
    assert "warning: provider option a=b has no effect on provider cpu" in told


def test_help_says_what_may_be_given() -> None:
    shown = CliRunner().invoke(main, ["bench", "models", "--help"]).stdout
    for words in ("auto|cpu|cuda[:N]", "fp32|tf32|bf16|fp16", "cpu|cuda|tensorrt", "KEY=VALUE"):
        assert words in shown


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["study", "tickets", "--seeds", "0,one"], "--seeds '0,one' is not a list of whole numbers: separate them by"),
        (["study", "tickets", "--levels", "0.5,1"], "--levels '0.5,1' is not a list of fractions above 0 and below 1"),
        (["speed", "--sparsity", "0.5;0.7"], "--sparsity '0.5;0.7' is not a list of numbers"),
        (["prune", "--seeds", "1.5"], "--seeds '1.5' is not a list of whole numbers"),
    ],
)
def test_lists_with_commas_are_read_in_one_place(command: list[str], text: str) -> None:
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {text}")
    assert result.output.count("\n") == 1

"""Devices and dtypes: what is parsed, what is refused, and that nothing stays changed."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from vlcompress.devices import (
    CPU,
    Compute,
    MicroBatch,
    autocast,
    cast_inputs,
    parse_compute,
    parse_micro_batch,
    placed,
    precision,
    spelt,
    usable,
)
from vlcompress.errors import VlcompressError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch tell of two GPUs: an H100, and a V100 as the second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    capability = {0: (9, 0), "cuda": (9, 0), "cuda:0": (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability.get(device, (7, 0)))
    names = {0: "H100", "cuda": "H100", "cuda:0": "H100"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names.get(device, "V100"))


def refused(device: str, dtype: str, *, training: bool = False) -> str:
    with pytest.raises(VlcompressError) as caught:
        parse_compute(device, dtype, training=training)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert parse_compute("auto", "fp32") == CPU == Compute("cpu", "fp32")


@pytest.mark.usefixtures("gpus")
def test_with_a_gpu_auto_is_the_first_one() -> None:
    assert parse_compute("auto", "tf32") == Compute("cuda", "tf32")
    assert parse_compute("cuda:1", "fp16", training=True) == Compute("cuda:1", "fp16")


def test_what_the_cpu_lacks_is_refused_with_the_fix() -> None:
    assert "--device cpu or auto" in refused("cuda", "fp32")
    assert refused("cpu", "tf32") == "dtype tf32 is a mode of NVIDIA tensor cores: use fp32 or bf16 on the CPU"
    assert "use bf16 or fp32" in refused("cpu", "fp16", training=True)
    assert "'cuda:x'" in refused("cuda:x", "fp32")
    assert "'int8'" in refused("cpu", "int8")
    assert parse_compute("cpu", "fp16") == Compute("cpu", "fp16"), "inference in float16 is fine"


@pytest.mark.usefixtures("gpus")
def test_what_a_gpu_lacks_is_refused_with_the_fix() -> None:
    assert "torch sees 2 GPU(s)" in refused("cuda:7", "fp32")
    for dtype in ("tf32", "bf16"):
        assert "V100 (sm_70)" in refused("cuda:1", dtype)


@pytest.mark.usefixtures("gpus")
def test_identity_is_empty_at_the_default_and_names_the_architecture_elsewhere() -> None:
    assert CPU.identity() == {}
    assert Compute("cpu", "bf16").identity() == {"device": "cpu", "dtype": "bf16"}
    assert Compute("cuda", "fp32").identity() == {"device": "cuda sm_90", "dtype": "fp32"}
    assert Compute("cuda", "bf16").describe() == {"device": "cuda", "dtype": "bf16", "name": "H100"}


@pytest.mark.usefixtures("gpus")
def test_usable_lists_the_dtypes_of_each_device() -> None:
    assert usable()["cuda:0"] == ["fp32", "tf32", "bf16", "fp16"]
    assert usable()["cuda:1"] == ["fp32", "fp16"]


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def tf32() -> tuple[bool, bool]:
    backends: Any = torch.backends
    matmul, conv = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    return matmul == "tf32", conv == "tf32"


@pytest.mark.parametrize("newer", [False, True])
def test_precision_sets_tf32_and_restores_what_a_user_had_set(newer: bool) -> None:
    if newer:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision("high")
    with precision(Compute("cuda", "fp32")):
        assert tf32() == (False, False)
    assert tf32() == (True, True)
    with precision(Compute("cuda", "tf32")):
        assert tf32() == (True, True)
    with precision(CPU):
        assert tf32() == (True, True), "the CPU leaves the setting alone"


def test_autocast_computes_in_the_dtype_and_keeps_float32_weights() -> None:
    layer = nn.Linear(4, 3)
    with autocast(Compute("cpu", "bf16")):
        y = layer(torch.ones(2, 4))
    assert (y.dtype, layer.weight.dtype) == (torch.bfloat16, torch.float32)
    with autocast(CPU):
        assert layer(torch.ones(2, 4)).dtype == torch.float32


def test_at_inference_weights_and_floats_are_cast_and_whole_numbers_are_not() -> None:
    compute = Compute("cpu", "bf16")
    layer = placed(nn.Linear(4, 3), compute)
    inputs = cast_inputs({"x": torch.ones(2, 4), "ids": torch.ones(2, dtype=torch.int64)}, compute)
    assert (layer.weight.dtype, inputs["x"].dtype, inputs["ids"].dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.int64,
    )
    assert not layer.training


def test_no_torch_is_needed_to_hold_a_compute() -> None:
    code = "import sys, vlcompress.devices; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["65537", "9" * 5000, "-1", "1.5", "", "all"])
def test_a_micro_batch_that_is_none(text: str) -> None:
    with pytest.raises(VlcompressError, match=f"micro-batch '{re.escape(text[:20])}': give auto"):
        parse_micro_batch(text)
    assert parse_micro_batch("65536") == 65536


@pytest.mark.parametrize(
    ("device", "count", "said"),
    [
        ("auto", 0, "devices 4096: torch sees no GPU; --device cpu takes 4096 processes"),
        ("cpu", 0, "devices 4096: there are [0-9]+ processor.s. here, give --devices [0-9]+ or less"),
        ("cuda", 2, "devices 4096: there are 2 GPU.s. here, give --devices 2 or less"),
        ("auto", 2, "devices 4096: there are 2 GPU.s. here"),
        ("cuda:1", 2, "devices 4096 beside device 'cuda:1': the first 4096 GPUs are taken, give --device cuda"),
        ("cuda", 0, "device 'cuda' was asked for, but torch sees no GPU"),
    ],
)
def test_more_devices_than_there_are(device: str, count: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(VlcompressError, match=said):
        parse_compute(device, "fp32", devices=4096)


def test_several_devices_are_part_of_a_training_s_name_and_each_has_its_own() -> None:
    two = Compute(devices=2)
    assert two.identity() == {"device": "cpu", "dtype": "fp32", "devices": "2"}
    assert spelt(two.identity()) == "cpu in fp32, 2 devices"
    assert Compute("cuda", devices=2).of_rank(1).device == "cuda:1"
    assert (two.of_rank(1).device, Compute("cuda", devices=2).of_rank(0).device) == ("cpu", "cuda")
    assert replace(two, micro_batch=MicroBatch(4)).for_batch(8).micro_batch == 0
    assert replace(two, micro_batch=MicroBatch(4)).for_batch(9).micro_batch == 4

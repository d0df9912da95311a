"""Providers in one word: what ONNX Runtime is told, in which order, with whose options."""

import pytest

from vlcompress.devices import Compute
from vlcompress.errors import VlcompressError
from vlcompress.export.providers import parse_provider, read_option, spell_provider


def test_cuda_multiplies_float32_without_tf32_unless_asked() -> None:
    assert parse_provider("cuda").chain() == [
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        ("CPUExecutionProvider", {}),
    ]
    asked = spell_provider("cuda", compute=Compute("cuda:1", "tf32"))
    assert asked == "cuda,device_id=1,use_tf32=1"
    assert parse_provider(asked).chain()[0][1] == {"use_tf32": "1", "device_id": "1"}
    assert parse_provider(asked).device == ("cuda", 1)
    given = spell_provider("cuda", [("use_tf32", "0")], compute=Compute("cuda", "tf32"))
    assert given == "cuda,use_tf32=0", "what the user says wins"


def test_tensorrt_falls_back_to_cuda_and_then_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    spelled = spell_provider("tensorrt", [("device_id", "2")], half=True)
    assert spelled == "tensorrt,trt_fp16_enable=1,device_id=2"
    engine = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "/cache/vlcompress/tensorrt"}
    assert parse_provider(spelled).chain() == [
        ("TensorrtExecutionProvider", {**engine, "trt_fp16_enable": "1", "device_id": "2"}),
        ("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "2"}),
        ("CPUExecutionProvider", {}),
    ]
    off = parse_provider("tensorrt,trt_engine_cache_enable=0").chain()[0][1]
    assert off == {"trt_engine_cache_enable": "0"}


def test_the_cpu_takes_no_options_and_says_so() -> None:
    told: list[str] = []
    assert spell_provider("cpu", [("a", "b")], compute=Compute("cuda:1", "tf32"), say=told.append) == "cpu"
    assert told == ["warning: provider option a=b has no effect on provider cpu"]
    assert parse_provider("cpu").chain() == [("CPUExecutionProvider", {})]


@pytest.mark.parametrize("text", ["", "use_tf32", "=1", "use_tf32=", "a b=1", "a=1,b=2"])
def test_an_option_is_key_and_value(text: str) -> None:
    with pytest.raises(VlcompressError, match="is not KEY=VALUE"):
        read_option(text)
    with pytest.raises(VlcompressError, match="unknown provider 'npu'"):
        parse_provider("npu")

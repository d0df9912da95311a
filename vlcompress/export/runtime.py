"""ONNX Runtime sessions as this project opens them."""

from pathlib import Path
from typing import Any, Literal

from vlcompress.artefacts import read_json
from vlcompress.errors import VlcompressError, unknown
from vlcompress.export.native.build import built
from vlcompress.export.target import IR_VERSION, OPSET

__all__ = ["IR_VERSION", "OPSET", "SKIP_LAYER_NORM", "open_session", "session_from_bytes"]

Native = Literal["off", "float32", "bfloat16"]
"""What the native kernel computes in, if it may run at all."""

SKIP_LAYER_NORM = "SkipLayerNormFusion"
"""ONNX Runtime's name for the fusion whose fp32 CPU kernel is slow."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""Execution providers by the names that this project gives them."""


def open_session(
    model: Path,
    *,
    threads: int,
    disable_skip_layer_norm: bool = True,
    provider: str = "cpu",
    native: Native | None = None,
) -> Any:
    """Open an exported model.

    Args:
        model: a .onnx file.
        threads: threads inside one operator, at least 1.
        disable_skip_layer_norm: leave LayerNormalization unfused. ONNX Runtime's fp32 CPU kernel of the fused form was
            measured about five times slower than the two nodes that it replaces.
        provider: "cpu", "cuda" or "tensorrt".
        native: on the CPU, what the native kernel computes packed nodes in, if `vlcompress native build` was run;
            without it, and with "off", they run with the standard operators that the file holds for them. "bfloat16"
            rounds weights and activations of those nodes to 8 bits of mantissa: measure the task's score with it.
            None takes float32 where the export measured that it is faster, and "off" elsewhere.

    Raises:
        VlcompressError: no such file, a file that ONNX Runtime cannot read, a provider that is unknown or not there, or
            "bfloat16" where the native kernel was not built or the processor has no instructions for it.
    """
    if not model.is_file():
        raise VlcompressError(f"no ONNX model at '{model}': give a file that exists, or run export first")
    try:
        return _session(str(model), threads, disable_skip_layer_norm, provider, native or _measured(model))
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            raise VlcompressError(f"ONNX Runtime cannot read '{model}' ({error}): export it again") from error
        raise


def _measured(model: Path) -> Native:
    """Give what the manifest beside a model says is faster; "off" where it says nothing."""
    manifest = model.parent / "manifest.json"
    found = read_json(manifest).get("native") if manifest.is_file() else None
    times = found["timings"] if found else {}
    return "float32" if times and times["float32"]["us"] < times["off"]["us"] else "off"


def session_from_bytes(
    model: bytes,
    *,
    threads: int,
    disable_skip_layer_norm: bool = True,
    provider: str = "cpu",
    native: Native = "float32",
) -> Any:
    """Open a serialised model (see `open_session`)."""
    return _session(model, threads, disable_skip_layer_norm, provider, native)


def require_provider(provider: str) -> str:
    """Give ONNX Runtime's name of a provider that this installation has.

    Raises:
        VlcompressError: unknown, or not part of the installed package; what is there is listed.
    """
    import onnxruntime

    if provider not in PROVIDERS:
        raise unknown("provider", provider, PROVIDERS)
    there = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in there:
        names = [name for name, found in PROVIDERS.items() if found in there]
        raise VlcompressError(
            f"provider '{provider}' is not in this onnxruntime {onnxruntime.__version__}: it has {', '.join(names)}; "
            "for a GPU install vlcompress[gpu] in place of vlcompress[cpu]"
        )
    return PROVIDERS[provider]


def _session(model: str | bytes, threads: int, disable_skip_layer_norm: bool, provider: str, native: Native) -> Any:
    import onnxruntime

    wanted = require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if provider == "cpu":
        _take_native(options, native)
    disabled = [SKIP_LAYER_NORM] if disable_skip_layer_norm else []
    session = onnxruntime.InferenceSession(model, options, providers=[wanted], disabled_optimizers=disabled)
    if wanted not in session.get_providers():  # it falls back to the CPU without an error
        raise VlcompressError(
            f"provider '{provider}' was asked for, but ONNX Runtime opened the model on "
            f"{', '.join(session.get_providers())}: its GPU libraries are missing or there is no GPU; "
            "run `vlcompress doctor`, or use --provider cpu"
        )
    return session


def _take_native(options: Any, native: Native) -> None:
    """Register the native kernel with a session's options, if it was built."""
    library = built() if native != "off" else None
    if library is not None and library.onnxruntime:
        options.add_session_config_entry("vlcompress.precision", native)
        try:
            options.register_custom_ops_library(str(library.library))
        except Exception as error:
            raise VlcompressError(f"no native kernel in {native} ({error}): use float32, or another machine") from error
    elif native == "bfloat16":
        raise VlcompressError("bfloat16 needs the native kernel, which was not built: run `vlcompress native build`")

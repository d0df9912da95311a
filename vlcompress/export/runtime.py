"""ONNX Runtime sessions as this project opens them."""

from pathlib import Path
from typing import Any

from vlcompress.errors import VlcompressError, unknown
from vlcompress.export.native.build import built
from vlcompress.export.target import IR_VERSION, OPSET

__all__ = ["IR_VERSION", "OPSET", "SKIP_LAYER_NORM", "open_session", "session_from_bytes"]

SKIP_LAYER_NORM = "SkipLayerNormFusion"
"""ONNX Runtime's name for the fusion whose fp32 CPU kernel is slow."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""Execution providers by the names that this project gives them."""


def open_session(
    model: Path, *, threads: int, disable_skip_layer_norm: bool = True, provider: str = "cpu", native: bool = True
) -> Any:
    """Open an exported model.

    Args:
        model: a .onnx file.
        threads: threads inside one operator, at least 1.
        disable_skip_layer_norm: leave LayerNormalization unfused. ONNX Runtime's fp32 CPU kernel of the fused form was
            measured about five times slower than the two nodes that it replaces.
        provider: "cpu", "cuda" or "tensorrt".
        native: on the CPU, let the native kernel take packed nodes over if it was built (`vlcompress native build`);
            otherwise they run with the standard operators that the file holds for them.

    Raises:
        VlcompressError: no such file, a file that ONNX Runtime cannot read, or a provider that is unknown or not there.
    """
    if not model.is_file():
        raise VlcompressError(f"no ONNX model at '{model}': give a file that exists, or run export first")
    try:
        return _session(str(model), threads, disable_skip_layer_norm, provider, native)
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            raise VlcompressError(f"ONNX Runtime cannot read '{model}' ({error}): export it again") from error
        raise


def session_from_bytes(
    model: bytes, *, threads: int, disable_skip_layer_norm: bool = True, provider: str = "cpu", native: bool = True
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


def _session(model: str | bytes, threads: int, disable_skip_layer_norm: bool, provider: str, native: bool) -> Any:
    import onnxruntime

    wanted = require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    library = built() if native and provider == "cpu" else None
    if library is not None and library.onnxruntime:
        options.register_custom_ops_library(str(library.library))
    disabled = [SKIP_LAYER_NORM] if disable_skip_layer_norm else []
    session = onnxruntime.InferenceSession(model, options, providers=[wanted], disabled_optimizers=disabled)
    if wanted not in session.get_providers():  # it falls back to the CPU without an error
        raise VlcompressError(
            f"provider '{provider}' was asked for, but ONNX Runtime opened the model on "
            f"{', '.join(session.get_providers())}: its GPU libraries are missing or there is no GPU; "
            "run `vlcompress doctor`, or use --provider cpu"
        )
    return session

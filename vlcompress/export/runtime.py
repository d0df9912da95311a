"""ONNX Runtime sessions as this project opens them."""

from pathlib import Path
from typing import Any

from vlcompress.errors import VlcompressError

OPSET = 20
"""Operator set of every exported file: the first with Gelu, so one node stands for it. ONNX Runtime 1.17 or newer."""


SKIP_LAYER_NORM = "SkipLayerNormFusion"
"""ONNX Runtime's name for the fusion whose fp32 CPU kernel is slow."""


def open_session(model: Path, *, threads: int, disable_skip_layer_norm: bool = True) -> Any:
    """Open an exported model on the CPU.

    Args:
        model: a .onnx file.
        threads: threads inside one operator, at least 1.
        disable_skip_layer_norm: leave LayerNormalization unfused. ONNX Runtime's fp32 CPU kernel of the fused form was
            measured about five times slower than the two nodes that it replaces.

    Raises:
        VlcompressError: no such file, or a file that ONNX Runtime cannot read.
    """
    if not model.is_file():
        raise VlcompressError(f"no ONNX model at '{model}': give a file that exists, or run export first")
    try:
        return _session(str(model), threads, disable_skip_layer_norm)
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            raise VlcompressError(f"ONNX Runtime cannot read '{model}' ({error}): export it again") from error
        raise


def session_from_bytes(model: bytes, *, threads: int, disable_skip_layer_norm: bool = True) -> Any:
    """Open a serialised model on the CPU (see `open_session`)."""
    return _session(model, threads, disable_skip_layer_norm)


def _session(model: str | bytes, threads: int, disable_skip_layer_norm: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    disabled = [SKIP_LAYER_NORM] if disable_skip_layer_norm else []
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )

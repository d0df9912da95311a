"""ONNX Runtime sessions as this project opens them."""

import importlib
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from vlcompress.artefacts import Json, read_json
from vlcompress.devices import cpu_facts
from vlcompress.errors import VlcompressError, missing
from vlcompress.export.binding import BoundSession
from vlcompress.export.native.build import built
from vlcompress.export.providers import PROVIDERS, parse_provider
from vlcompress.export.target import IR_VERSION, OPSET

__all__ = ["IR_VERSION", "OPSET", "SKIP_LAYER_NORM", "open_session", "session_from_bytes"]

Native = Literal["off", "float32", "bfloat16", "int8"]
"""What the native kernel computes in, if it may run at all; nodes of int8 weights run in int8 whatever this says."""

SKIP_LAYER_NORM = "SkipLayerNormFusion"
"""ONNX Runtime's name for the fusion whose fp32 CPU kernel is slow."""


def open_session(
    model: Path,
    *,
    threads: int,
    disable_skip_layer_norm: bool | None = None,
    provider: str = "cpu",
    native: Native | None = None,
    names: Mapping[str, str] = PROVIDERS,
    spin: bool = True,
) -> Any:
    """Open an exported model.

    Args:
        model: a .onnx file.
        threads: threads inside one operator, at least 1.
        disable_skip_layer_norm: leave LayerNormalization unfused. ONNX Runtime's fp32 CPU kernel of the fused form was
            measured about five times slower than the two nodes that it replaces. None does what the export measured to
            be faster, and leaves it unfused where no manifest lies beside the file.
        provider: "cpu", "cuda" or "tensorrt", with options as `vlcompress.export.providers` spells them. Off the CPU
            inputs and outputs are bound (`BoundSession`).
        native: on the CPU, what the native kernel computes packed nodes in, if `vlcompress native build` was run;
            without it, and with "off", they run with the standard operators that the file holds for them. "bfloat16"
            rounds weights and activations of those nodes to 8 bits of mantissa: measure the task's score with it.
            None takes the kernel where the export measured that it is faster, and "off" elsewhere.
        names: ONNX Runtime's name of each provider that may be asked for.
        spin: let idle threads wait busily. In a server they would take the core that the next request is read on.

    Raises:
        VlcompressError: no ONNX Runtime, no such file, a file that it cannot read, a provider that is unknown or not
            there, or "bfloat16" where the native kernel was not built or the processor has no instructions for it.
    """
    if not model.is_file():
        raise VlcompressError(f"no ONNX model at '{model}': give a file that exists, or run export first")
    try:
        faster, unfused = _measured(model)
        skip = unfused if disable_skip_layer_norm is None else disable_skip_layer_norm
        return _session(str(model), threads, skip, provider, native or faster, names=names, spin=spin)
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            raise VlcompressError(f"ONNX Runtime cannot read '{model}' ({error}): export it again") from error
        raise


def native_of(model: Path) -> Native:
    """Tell what a session on the CPU takes the native kernel for, as the manifest beside the model advises."""
    library = built()
    return _measured(model)[0] if library is not None and library.onnxruntime else "off"


def _measured(model: Path) -> tuple[Native, bool]:
    """Read what the manifest beside a model says is faster: the native kernel, and to leave LayerNormalization unfused.

    Where it says nothing, the file's own operators are, and unfused.
    """
    file = model.parent / "manifest.json"
    manifest = read_json(file) if file.is_file() else {}
    times = (manifest.get("native") or {}).get("timings") or {"off": {"us": 0.0}}
    native: Native = min(times, key=lambda kind: times[kind]["us"])
    return native, SKIP_LAYER_NORM in manifest.get("speed", {}).get("disabled_optimizers", (SKIP_LAYER_NORM,))


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


def available(names: Mapping[str, str] = PROVIDERS) -> list[str]:
    """List the providers of the installed ONNX Runtime, by this project's names."""
    there = _onnxruntime().get_available_providers()
    return [name for name, found in names.items() if found in there]


def require_provider(provider: str, names: Mapping[str, str] = PROVIDERS) -> str:
    """Look up ONNX Runtime's name of a provider that this installation has.

    Raises:
        VlcompressError: unknown, or not part of the installed package; what is there is listed.
    """
    name, there = parse_provider(provider, names).name, available(names)
    if name not in there:
        raise VlcompressError(
            f"provider '{name}' is not in this onnxruntime {_onnxruntime().__version__}: it has {', '.join(there)}; "
            "for a GPU install vlcompress[gpu] in place of vlcompress[cpu]"
        )
    return names[name]


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise missing(error) or error from error


def provider_for(asked: str | None, manifest: Json, say: Callable[[str], None]) -> str:
    """Pick the provider to open an exported file on.

    Args:
        asked: what the user asked for, spelled out; None takes the one that the file was exported for, or the CPU where
            that is not there, and says so.
        manifest: of the file.
        say: told of that.

    Raises:
        VlcompressError: an unknown provider was asked for, or one that is not there.
    """
    if asked is not None:
        require_provider(asked)
        return asked
    measured = str(manifest.get("provider", "cpu"))
    if parse_provider(measured).name in available():
        return measured
    say(f"warning: the file was exported for provider '{measured}', which is not here: it runs on the CPU")
    return "cpu"


def open_exported(
    file: Path, provider: str | None, *, threads: int = 1, say: Callable[[str], None] = print
) -> tuple[Any, str]:
    """Open an exported file as its manifest advises, with its own operators alone.

    Args:
        file: model.onnx.
        provider: spelled out; None takes the one that the file was exported for.
        threads: of ONNX Runtime.
        say: told where that is not there.

    Returns:
        The session, and the provider that it runs on.

    Raises:
        VlcompressError: no such file, or no such provider.
    """
    if not file.is_file():
        raise VlcompressError(f"no ONNX model at '{file}': run `vlcompress export` first")
    chosen = provider_for(provider, read_json(file.parent / "manifest.json"), say)
    return open_session(file, threads=threads, provider=chosen, native="off"), chosen


def placement(model: Path, provider: str, feed: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Run a model once, and count the nodes that each provider took, by kind of operator.

    TensorRT leaves what it does not support to CUDA, and both leave the rest to the CPU, without a word.

    Args:
        model: a .onnx file.
        provider: spelled out.
        feed: inputs by name.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.enable_profiling = 3, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(model), options, providers=parse_provider(provider).chain())
        session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, Counter[str]] = {}
    for event in events:
        said = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in said:
            found.setdefault(said["provider"], Counter())[said["op_name"]] += 1
    return {name: dict(sorted(counts.items())) for name, counts in found.items()}


def _session(
    model: str | bytes,
    threads: int,
    disable_skip_layer_norm: bool,
    provider: str,
    native: Native,
    *,
    names: Mapping[str, str] = PROVIDERS,
    spin: bool = True,
) -> Any:
    onnxruntime = _onnxruntime()
    wanted, chosen = require_provider(provider, names), parse_provider(provider, names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if chosen.name == "cpu" and saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if chosen.name == "cpu":
        _take_native(options, native)
    disabled = [SKIP_LAYER_NORM] if disable_skip_layer_norm else []
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=chosen.chain(names), disabled_optimizers=disabled
        )
    except Exception as error:
        if "AddInitializerWithOrtValue" not in str(error):
            raise
        raise VlcompressError(
            "this processor's 8-bit products saturate, and ONNX Runtime cannot widen the weights of this file: "
            "serve the float32 file here, or use a processor with VNNI"
        ) from error
    if wanted not in session.get_providers():  # it falls back to the CPU without an error
        raise VlcompressError(
            f"provider '{provider}' was asked for, but ONNX Runtime opened the model on "
            f"{', '.join(session.get_providers())}: its GPU libraries are missing, there is no GPU, or an option is "
            "wrong; run `vlcompress doctor`, or use --provider cpu"
        )
    return BoundSession(session, *chosen.device) if chosen.device[0] == "cuda" else session


@cache
def saturates() -> bool:
    """Tell whether 8-bit products saturate: x86 without VNNI. Answers would differ from those that the export checked.

    ONNX Runtime then widens the weights to uint8 where it is asked to, which is slower (see `quantize`): it is not
    asked on a processor that has no need of it.
    """
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return on_x86 and not {"avx512_vnni", "avx_vnni"} & set(cpu_facts().get("flags", "").split())


def _take_native(options: Any, native: Native) -> None:
    """Register the native kernel with a session's options, if it was built."""
    library = built() if native != "off" else None
    if library is not None and library.onnxruntime:
        options.add_session_config_entry("vlcompress.precision", "bfloat16" if native == "bfloat16" else "float32")
        try:
            options.register_custom_ops_library(str(library.library))
        except Exception as error:
            raise VlcompressError(f"no native kernel in {native} ({error}): use float32, or another machine") from error
    elif native == "bfloat16":
        raise VlcompressError("bfloat16 needs the native kernel, which was not built: run `vlcompress native build`")

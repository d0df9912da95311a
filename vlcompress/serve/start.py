"""From the command's options to a running server."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlcompress.devices import CPU, Compute, parse_compute
from vlcompress.errors import VlcompressError
from vlcompress.export.providers import spell_provider
from vlcompress.serve.demo import Demo
from vlcompress.serve.settings import Backend, ModelSpec, Settings
from vlcompress.serve.stored import ARTEFACT, default_name

TOKEN_VARIABLE = "VLCOMPRESS_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Say = Callable[[str], None]
Announce = Callable[[dict[str, Any], str], None]


def serve(models: Sequence[str], *, home: Path, announce: Announce, say: Say = print, **given: Any) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        models: paths, or NAME=PATH; none takes the newest exported run in `home`.
        home: folder for runs.
        announce: told what is served, as a document and as text, when the server is about to listen.
        say: told of options that have no effect.
        given: the other options of `vlcompress serve`; "engine" is "local" or "ray".

    Raises:
        VlcompressError: anything that does not fit, before the server listens.
    """
    engine, replicas = given.pop("engine", "local"), given.pop("replicas", None)
    if engine == "local" and replicas is not None:
        raise VlcompressError(f"--replicas {replicas} has no effect on one process: add --engine ray, or leave it out")
    settings = make_settings(models, home=home, say=say, **given)
    if engine == "ray":
        if settings.grpc_port is not None:
            raise VlcompressError(
                "--grpc-port is for one process: with --engine ray requests come over HTTP; leave it out"
            )
        from vlcompress.serve.ray import run_ray

        return run_ray(settings, 1 if replicas is None else replicas, announce)
    from vlcompress.serve.run import run

    run(settings, announce)


def make_settings(
    models: Sequence[str],
    *,
    home: Path,
    backend: Backend = "onnx",
    provider: str = "cpu",
    provider_options: Sequence[tuple[str, str]] = (),
    device: str = "auto",
    dtype: str = "fp32",
    say: Say = print,
    threads: str = "auto",
    sessions: str = "auto",
    batch_window: float = 0.0,
    queue: int = 256,
    deadline: float = 2000.0,
    max_body: int = 32,
    token_file: Path | None = None,
    drain: float = 5.0,
    poll: float = 5.0,
    **same: Any,
) -> Settings:
    """Turn the command's options into settings; those of the same name and unit are passed on.

    Raises:
        VlcompressError: a value that is not allowed, no run, a token file that cannot be read.
    """
    compute = _compute(backend, device, dtype, say)
    found = tuple(_spec(text) for text in models) or (newest_model(home, backend),)
    return Settings(
        models=found,
        backend=backend,
        provider=spell_provider(provider, provider_options, say=say),
        compute=compute,
        threads=_count("threads", threads),
        sessions=_count("sessions", sessions),
        batch_window_ms=batch_window,
        queue_rows=queue,
        deadline_ms=deadline,
        max_body_bytes=max_body << 20,
        max_inflated_bytes=2 * max_body << 20,
        max_inflight_bytes=max(256, 4 * max_body) << 20,
        token=read_token(token_file),
        drain_seconds=drain,
        poll_seconds=poll,
        demo=built_in,
        **same,
    )


def _compute(backend: Backend, device: str, dtype: str, say: Say) -> Compute:
    if backend == "torch":
        return parse_compute(device, dtype)
    if (device, dtype) != ("auto", "fp32"):
        say(f"warning: device {device} and dtype {dtype} have no effect on --backend onnx: give --provider")
    return CPU


def built_in() -> Demo:
    """Open the built-in data as a demo."""
    from vlcompress.serve.scenes import Scenes

    return Scenes()


def newest_model(home: Path, backend: Backend) -> ModelSpec:
    """Find the run whose artefact for this backend was written last.

    Raises:
        VlcompressError: there is none.
    """
    folder, _, document = ARTEFACT[backend]
    found = sorted(home.glob(f"*/{folder}/{document}"), key=lambda path: path.stat().st_mtime)
    if not found:
        command = "export --format onnx" if backend == "onnx" else "compile"
        raise VlcompressError(
            f"there is nothing to serve in '{home}': run `vlcompress prune` and `vlcompress {command}` first, or give "
            "a path"
        )
    run = found[-1].parent.parent
    return ModelSpec(default_name(run), run)


def read_token(path: Path | None) -> str | None:
    """Read the token from a file, else from the environment; None where there is neither.

    Raises:
        VlcompressError: a file that cannot be read, an empty token, or one that no header can carry.
    """
    try:
        token = os.environ.get(TOKEN_VARIABLE) if path is None else path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise VlcompressError(f"the token file '{path}' cannot be read ({error}): give a text file") from error
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise VlcompressError("the token is empty, or holds spaces or characters that are not ASCII: give another one")
    return token


def summary(document: dict[str, Any]) -> str:
    """Say what is served, for people."""
    grpc = f", gRPC on {document['grpc']}" if "grpc" in document else ""
    lines = [f"serving on {document['url']}{grpc}"]
    for model in document["models"]:
        sparsity = f", {float(model['sparsity']):.0%} pruned" if model["sparsity"] else ""
        runs = f"{model['backend']} on {model['provider']}"
        parallel = f"{model['sessions']} session(s) of {model['threads']} thread(s)"
        lines.append(f"  {model['model']} version {model['version']}: {runs}{sparsity}, {parallel}")
        lines += [
            f"    measured: {row['sessions']} x {row['threads']} thread(s): {row['rows_per_s']:.0f} rows/s"
            for row in model["measured"]
        ]
    return "\n".join([*lines, *(f"  note: {note}" for note in document["notes"])])


def notes(settings: Settings) -> list[str]:
    """List what the user should know about the answers, and before others reach the server."""
    found = [] if settings.compute.dtype == "fp32" else [f"PyTorch computes in {settings.compute.dtype}"]
    if settings.host in LOOPBACK:
        return found
    found += [] if settings.token else ["no token is set: everyone who reaches this address may ask"]
    return [*found, "requests are not encrypted: put a proxy with TLS in front"]


def _spec(text: str) -> ModelSpec:
    name, separator, path = text.partition("=")
    if separator and "/" not in name:
        return ModelSpec(name, Path(path))
    return ModelSpec(default_name(Path(text)), Path(text))


def _count(option: str, text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise VlcompressError(f"--{option} '{text[:20]}' is neither a number from 1 up nor 'auto'")
    return int(text)

"""What a server is told: plain values that pickle, so that another process can build the same app."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlcompress.devices import CPU, Compute
from vlcompress.errors import VlcompressError
from vlcompress.export.providers import PROVIDERS as EXPORTED_FOR
from vlcompress.export.providers import parse_provider
from vlcompress.serve.demo import Demo

Backend = Literal["onnx", "torch"]

PROVIDERS = {**EXPORTED_FOR, "openvino": "OpenVINOExecutionProvider"}
"""ONNX Runtime's execution providers by the names that users give."""


@dataclass(frozen=True)
class ModelSpec:
    """One model to serve.

    Attributes:
        name: as clients call it.
        path: a run's folder, an artefact (``onnx/``, ``compiled/``), a .onnx file, or a folder of numbered versions
            (``1/model.onnx``, ``2/model.onnx``: a model of an NVIDIA Triton repository).
        version: its version where the folder does not number them; None counts from 1.
    """

    name: str
    path: Path
    version: int | None = None


@dataclass(frozen=True)
class Settings:
    """A server's settings.

    Attributes:
        models: what to serve; each name once.
        backend: "onnx" runs ``onnx/`` in ONNX Runtime, "torch" the compiled PyTorch model.
        provider: of ONNX Runtime, spelled out with its options; the server does not start on another one.
        compute: where backend "torch" computes, and in what.
        threads: threads inside one execution; None chooses by a short measurement.
        sessions: executions at the same time; None chooses likewise.
        max_batch: most rows of one execution, and of one request.
        batch_window_ms: how long the oldest request may wait for others to share its execution; with 0 requests are
            merged only while every session is busy.
        queue_rows: rows that may wait for a session, over all requests of a model.
        deadline_ms: most time from the end of a request's body to its answer; a request may ask for less.
        max_body_bytes: largest request body as sent.
        max_inflated_bytes: largest request body after decompression.
        max_inflight_bytes: most bytes of request bodies in memory at once.
        max_axis: largest size of an axis that a model leaves open, batch aside.
        body_seconds: how long a client may take to send a body.
        token: what clients must send as ``Authorization: Bearer``; None lets everyone in.
        drain_seconds: how long to go on serving, not ready, after SIGTERM.
        stop_seconds: how long requests in flight may then take.
        warmup: run every model at its batch sizes before it is ready.
        poll_seconds: how often to look for new versions on disk; 0 never looks.
        host, port: where to listen.
        grpc_port: where to listen for gRPC as well; 0 takes a free one, None none.
        cors: origins whose pages' scripts may ask ("https://HOST", or "*" for any); none else.
        prefix: what precedes every path ("/vqa"), where a proxy passes it on; without it paths are answered too.
        page: serve the interactive page at ``/``.
        log_level: "debug", "info", "warning" or "error".
        otel: trace requests with OpenTelemetry, configured by its usual environment variables.
        replica: which of several behind one address this is, for its metrics; "" where it is the only one.
        index: folder of pictures and captions that retrieval searches; None has none.
        demo: opens what the page is tried with, when it is first needed; a function of a module, so that it pickles.
    """

    models: tuple[ModelSpec, ...]
    backend: Backend = "onnx"
    provider: str = "cpu"
    compute: Compute = CPU
    threads: int | None = None
    sessions: int | None = None
    max_batch: int = 32
    batch_window_ms: float = 0.0
    queue_rows: int = 256
    deadline_ms: float = 2000.0
    max_body_bytes: int = 32 << 20
    max_inflated_bytes: int = 64 << 20
    max_inflight_bytes: int = 256 << 20
    max_axis: int = 1024
    body_seconds: float = 30.0
    token: str | None = field(default=None, repr=False)
    drain_seconds: float = 5.0
    stop_seconds: float = 30.0
    warmup: bool = True
    poll_seconds: float = 5.0
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    cors: tuple[str, ...] = ()
    prefix: str = ""
    page: bool = True
    log_level: str = "info"
    otel: bool = False
    replica: str = ""
    index: Path | None = None
    demo: Callable[[], Demo] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            VlcompressError: no model, a name used twice, a value out of its range.
        """
        names = [model.name for model in self.models]
        if not names:
            raise VlcompressError("no model to serve: give at least one")
        for name in names:
            _check_name(name, names)
        if self.backend not in ("onnx", "torch"):
            raise VlcompressError(f"unknown backend '{self.backend}': allowed are onnx, torch")
        parse_provider(self.provider, PROVIDERS)
        for origin in self.cors:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise VlcompressError(f"origin '{origin}' is none: give scheme and host (https://HOST:PORT), or *")
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise VlcompressError(
                f"prefix '{self.prefix}' is none: give a path such as /vqa, without a slash at its end"
            )
        for setting in _AT_LEAST_ONE:
            value = getattr(self, setting)
            if value is not None and value < 1:
                raise VlcompressError(f"{setting} {value} is too low: give 1 or more")
        for setting in _AT_LEAST_ZERO:
            if getattr(self, setting) < 0:
                raise VlcompressError(f"{setting} {getattr(self, setting)} is negative: give 0 or more")
        if self.queue_rows < self.max_batch:
            raise VlcompressError(
                f"queue_rows {self.queue_rows} is below max_batch {self.max_batch}: no full batch could ever wait; "
                "raise the queue or lower the batch"
            )


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_AT_LEAST_ONE = (
    "threads", "sessions", "max_batch", "queue_rows", "deadline_ms", "max_body_bytes", "max_inflated_bytes",
    "max_inflight_bytes", "max_axis",
)  # fmt: skip
_AT_LEAST_ZERO = ("batch_window_ms", "body_seconds", "drain_seconds", "stop_seconds", "poll_seconds", "port")


def _check_name(name: str, names: list[str]) -> None:
    if not name or not all(letter.isalnum() or letter in "._-" for letter in name) or not name.isascii():
        raise VlcompressError(f"model name '{name}' cannot be part of a URL: use letters, digits, '.', '_' and '-'")
    if names.count(name) > 1:
        raise VlcompressError(f"two models are called '{name}': give one of them another name, NAME=PATH")

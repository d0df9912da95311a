"""What happens to every request on every protocol: an id, a span, a log line, metrics, and an answer to a bug too."""

import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from vlcompress.serve.auth import OPEN_CALLS, OPEN_PATHS
from vlcompress.serve.record import Record
from vlcompress.serve.refusal import Refusal
from vlcompress.serve.server import Server

logger = logging.getLogger(__name__)

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_QUIET = OPEN_PATHS - {"/", "/openapi.json"} | OPEN_CALLS | {"/metrics"}


@contextmanager
def exchange(server: Server, method: str, protocol: str, path: str, headers: Mapping[str, str]) -> Iterator[Record]:
    """Give a request its record, trace it, and at the end count it and write its log line.

    Args:
        server: that it came to.
        method: of HTTP; "gRPC" for the other protocol.
        protocol: "HTTP" or the called method, for the trace.
        path: that was called.
        headers: or metadata; names are lower-case.
    """
    start = time.perf_counter()
    record = Record(_request_id(headers.get("x-request-id", "")))
    tracer = server.tracer
    with tracer.span(method, protocol, headers, record) if tracer else nullcontext():
        yield record
    _note(server, record, method, path, time.perf_counter() - start)


def refused(error: Exception, record: Record) -> Refusal:
    """Note a refusal; anything else is a bug, which is logged and not told to the client."""
    if not isinstance(error, Refusal):
        logger.error("a request failed", exc_info=error, extra={"fields": record.fields()})
        error = Refusal(500, "internal error; the server's log says why", "internal_error")
    record.reason, record.status = error.reason, record.status or error.status
    return error


def _note(server: Server, record: Record, method: str, path: str, seconds: float) -> None:
    record.status = record.status or 499
    if record.metrics is not None:
        record.metrics.answered(record.status, seconds)
    if record.status >= 400 and record.reason:
        server.metrics.rejected.labels(record.reason).inc()
    level = logging.DEBUG if path in _QUIET else logging.INFO
    if logger.isEnabledFor(level):
        fields: dict[str, Any] = {
            "method": method,
            "path": path[:200],
            "status": record.status,
            "ms": round(seconds * 1000, 3),
            **record.fields(),
        }
        logger.log(level, "request", extra={"fields": fields})


def _request_id(given: str) -> str:
    return given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex

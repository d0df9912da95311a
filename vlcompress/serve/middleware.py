"""What happens to every request: an id, the token, a log line, metrics, and an answer even if the server has a bug."""

import logging
import re
import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlcompress.serve.auth import check_token
from vlcompress.serve.record import Record, attach
from vlcompress.serve.refusal import Refusal
from vlcompress.serve.server import Server

logger = logging.getLogger(__name__)

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_QUIET = ("/v2/health/", "/metrics")


@dataclass
class _Answered:
    """Wraps `send`: notes the status, adds headers."""

    send: Send
    record: Record
    close: bool
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            headers["x-request-id"] = self.record.request_id
            if self.close:  # while draining: the client's next request should go to another server
                headers["connection"] = "close"
            message["headers"] = headers.raw
        await self.send(message)


class Requests:
    """The outermost ASGI layer."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; other kinds of connection are passed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = Headers(scope=scope)
        record = Record(_request_id(headers.get("x-request-id", "")))
        attach(scope, record)
        answered = _Answered(send, record, self.server.draining)
        tracer = self.server.tracer
        with tracer.span(scope["method"], "HTTP", headers, record) if tracer else nullcontext():
            await self._serve(scope, receive, answered, headers)
        self._note(scope, record, answered.status, time.perf_counter() - start)

    async def _serve(self, scope: Scope, receive: Receive, send: _Answered, headers: Headers) -> None:
        try:
            check_token(scope["path"], headers.get("authorization", ""), self.server.settings.token)
            await self.app(scope, receive, send)
        except Refusal as refusal:
            await respond(refusal, send)
        except Exception:
            logger.exception("a request failed", extra={"fields": send.record.fields()})
            if not send.status:
                await respond(Refusal(500, "internal error; the server's log says why", "internal_error"), send)

    def _note(self, scope: Scope, record: Record, status: int, seconds: float) -> None:
        status = status or 499
        if record.metrics is not None:
            record.metrics.answered(status, seconds)
        if status >= 400 and record.reason:
            self.server.metrics.rejected.labels(record.reason).inc()
        level = logging.DEBUG if scope["path"].startswith(_QUIET) else logging.INFO
        if logger.isEnabledFor(level):
            fields: dict[str, Any] = {
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 3),
                **record.fields(),
            }
            logger.log(level, "request", extra={"fields": fields})


async def respond(refusal: Refusal, send: _Answered) -> None:
    """Answer a refusal."""
    send.record.reason = refusal.reason
    if refusal.status == 499:
        return
    body = refusal.body()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _request_id(given: str) -> str:
    return given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex

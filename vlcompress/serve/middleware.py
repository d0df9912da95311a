"""The outermost ASGI layer: every HTTP request is one exchange, and needs the token."""

from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlcompress.serve.auth import check_token
from vlcompress.serve.exchange import exchange, refused
from vlcompress.serve.record import Record, attach
from vlcompress.serve.refusal import Refusal
from vlcompress.serve.server import Server


@dataclass
class _Answered:
    """Wraps `send`: notes the status, adds headers."""

    send: Send
    record: Record
    close: bool

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.record.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            headers["x-request-id"] = self.record.request_id
            if self.close:  # while draining: the client's next request should go to another server
                headers["connection"] = "close"
            message["headers"] = headers.raw
        await self.send(message)


class Requests:
    """Serves the app's requests, whatever happens in them."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; other kinds of connection are passed on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, prefix = Headers(scope=scope), self.server.settings.prefix
        if prefix and scope["path"].startswith(f"{prefix}/"):
            scope["path"] = scope["path"].removeprefix(prefix)
        with exchange(self.server, scope["method"], "HTTP", scope["path"], headers) as record:
            attach(scope, record)
            record.client = (scope.get("client") or ("",))[0]
            answered = _Answered(send, record, self.server.draining)
            try:
                check_token(scope["path"], headers.get("authorization", ""), self.server.settings.token)
                await self.app(scope, receive, answered)
            except Exception as error:
                started = record.status
                refusal = refused(error, record)
                if not started:
                    await respond(refusal, answered)


async def respond(refusal: Refusal, send: Send) -> None:
    """Answer a refusal; nobody is left to read one of 499."""
    if refusal.status == 499:
        return
    body = refusal.body()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})

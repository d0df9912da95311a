"""Connections over HTTP within limits: of their number, of what precedes a body, and of the time that a client takes.

uvicorn and httptools set none of these: whoever opened connections and never finished a request kept everyone else out.
"""

import asyncio
import resource
import time
from collections import Counter
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from vlcompress.serve.refusal import error_body

HEAD_SECONDS = 10.0
"""From the opening of a connection, or a request's first byte, to the end of its headers."""
HEAD_BYTES, HEADERS = 64 << 10, 100
KEEP_SECONDS = 75.0
"""How long a connection is kept on which nothing is asked."""
OTHER_FILES = 100
"""Descriptors that are not left to connections: models, logs."""

_LOOK = 16
"""One part in so many of all connections gives way between two looks at all of them."""

_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_SECONDS = 0.1


def most_connections() -> int:
    """Count the connections, over all protocols, that the process's limit of open files leaves room for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(OTHER_FILES, files - OTHER_FILES) if files != resource.RLIM_INFINITY else 1 << 16


class Held(Protocol):
    """A connection of any protocol.

    Attributes:
        transport: its socket's.
        address: the client's.
        waits_since: when the server began to wait for the client; None while it works on a request.
    """

    transport: Any

    @property
    def address(self) -> str:
        """See the class."""

    @property
    def waits_since(self) -> float | None:
        """See the class."""


_going: list[tuple[Held, float | None]] = []
"""Who gives way next, the first one last, and since when it was waited for when that was seen."""


def make_room(connections: Any, most: int) -> None:
    """Hang up the one that is waited for longest, if there are more connections than `most`.

    Whoever opens connections as fast as it can must not keep the server busy with this: all of them are looked at only
    once for so many.
    """
    if len(connections) <= most:
        return
    while True:
        if not _going:
            _going[:] = reversed([(one, one.waits_since) for one in _longest_waiting(connections)])
        one, since = _going.pop()
        if one in connections and not one.transport.is_closing() and one.waits_since == since:
            one.transport.abort()
            return


class Connection(HttpToolsProtocol):
    """One client's connection."""

    most = most_connections()

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.waits_since: float | None = time.monotonic()
        """When the server began to wait for the client; None while it works on a request."""
        self._head_bytes: int | None = 0
        self._began = self._new_head = self._closed_half = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, in place of the one that keeps the server waiting longest if there are too many."""
        super().connection_made(transport)
        self._start_head_timer()
        make_room(self.connections, self.most)

    @property
    def address(self) -> str:
        """The client's address."""
        return self.client[0] if self.client else ""

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless headers become too long."""
        self._new_head = False
        super().data_received(data)
        if self._head_bytes is not None and not self._new_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, f"what precedes the body is too long: at most {HEAD_BYTES} bytes are accepted")

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that has said all: closed for sending, it may still read.

        One that is gone altogether looks the same until something is sent to it: an interim response, which every
        client of HTTP/1.1 skips. The first one makes a client's machine that knows the connection no longer say so, the
        second one makes this machine tell.
        """
        self._closed_half = True
        working = self.waits_since is None
        if working and not self.cycle.response_started and self.scope["http_version"] == "1.1":
            self._probe()
            self.loop.call_later(_PROBE_SECONDS, self._probe)
        return working

    def on_message_begin(self) -> None:
        """Count a new request's bytes and time."""
        super().on_message_begin()
        self._head_bytes, self._began, self._new_head = 0, True, True
        if self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        """Start a request, unless it has too many headers."""
        self._head_bytes = None
        self._stop_head_timer()
        if len(self.headers) > HEADERS:
            self._refuse(431, f"the request has {len(self.headers)} headers: at most {HEADERS} are accepted")
            raise ValueError("too many headers")  # the rest of the data is not looked at
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that it is the server's turn, unless it has refused the request before its end."""
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.waits_since = None

    def on_response_complete(self) -> None:
        """Note that it is the client's turn."""
        super().on_response_complete()
        if not self.cycle.response_complete:  # the next one has come already
            return
        self.waits_since, self._head_bytes = time.monotonic(), 0
        if self._closed_half:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the protocol's form."""
        self._refuse(400, msg)

    def _refuse(self, status: int, text: str) -> None:
        if self.transport.is_closing():
            return
        body = error_body(text)
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._began:
            self._refuse(408, f"the request's headers did not arrive within {HEAD_SECONDS:g} s")
        else:  # nothing arrived at all: nobody expects an answer
            self.transport.close()

    def _probe(self) -> None:
        if not (self.transport.is_closing() or self.cycle.response_started):
            self.transport.write(_PROBE)


def _longest_waiting(connections: Any) -> list[Held]:
    """Choose which connections to give up next: of those that keep the server waiting, else of all, those of the
    address that has most of them, and of these the ones that are waited for longest."""
    there: list[Held] = [one for one in connections if not one.transport.is_closing()]
    waits = {one: one.waits_since for one in there}
    found = [one for one in there if waits[one] is not None] or there
    held = Counter(one.address for one in found)
    most = max(held.values())
    longest = sorted((one for one in found if held[one.address] == most), key=lambda one: waits[one] or 0.0)
    return longest[: max(1, len(there) // _LOOK)]

"""HTTP/2 as gRPC needs it: a server's side of connections, on HTTP/1.1's event loop and within the same limits.

Clients speak it from the first byte on (RFC 9113, "prior knowledge"). hpack reads headers; answers are written without
its tables, as three frames in one write. Libraries of the whole protocol take longer than all else that the server does
for a request (`python -m bench.grpc_designs`).
"""

import asyncio
import struct
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import hpack
from uvicorn.server import ServerState

from vlcompress.serve.connections import HEAD_BYTES, HEAD_SECONDS, HEADERS, KEEP_SECONDS, make_room

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST_STREAMS = 1000
"""Requests that a connection may have open; those that the client gave up count until their work has ended."""

_LARGEST_FRAME, _LARGEST_WINDOW = 1 << 20, (1 << 31) - 1
_FIRST_WINDOW, _FIRST_FRAME = (1 << 16) - 1, 1 << 14
_DATA, _HEADERS, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_NO_ERROR, _PROTOCOL, _FLOW, _FRAME_SIZE, _REFUSED, _CANCEL, _COMPRESSION, _CALM = 0, 1, 3, 6, 7, 8, 9, 11
_MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME, _MAX_HEADERS = 3, 4, 5, 6

Headers = Mapping[str, str]


class ConnectionFault(Exception):
    """The client breaks the protocol or a limit; the connection ends with a code of the protocol's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Stream:
    """One request and its answer.

    Attributes:
        headers: of the request, pseudo-headers too.
        body: what has come of it and was not taken yet.
        ended: whether all of it has come.
        waits_since: when the server began to wait for the client; None while it works.
        open: whether an answer is still wanted.
        window: bytes that the client has room for.
    """

    def __init__(self, connection: "Http2Connection", number: int, headers: Headers, window: int) -> None:
        self.connection, self.number, self.headers, self.window = connection, number, headers, window
        self.body = bytearray()
        self.ended = False
        self.open = True
        self.waits_since: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._moved: asyncio.Future[None] | None = None

    @property
    def client(self) -> str:
        """The client's address."""
        return self.connection.address

    async def moved(self) -> None:
        """Wait until the client does something for this request: sends more of it, or makes room for the answer."""
        self.waits_since = time.monotonic()
        self._moved = asyncio.get_running_loop().create_future()
        try:
            await self._moved
        finally:
            self.waits_since = self._moved = None

    def move(self) -> None:
        """End that wait."""
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    async def send(self, head: bytes, body: bytes = b"", trailers: bytes = b"") -> None:
        """Send the answer as fast as the client has room for it.

        Args:
            head: its headers, of `block`.
            body: its bytes.
            trailers: headers after it; where there are none, the head is all.
        """
        parts = [frame(_HEADERS, _END_HEADERS if trailers else _END_HEADERS | _END_STREAM, self.number, head)]
        rest, connection = memoryview(body), self.connection
        while rest and self.open:
            size = min(len(rest), self.window, connection.window, connection.largest_frame)
            if size <= 0:
                connection.write(parts)
                parts = []
                await self._room()
                continue
            parts.append(frame(_DATA, 0, self.number, rest[:size]))
            rest = rest[size:]
            self.window -= size
            connection.window -= size
        if self.open:
            last = [frame(_HEADERS, _END_HEADERS | _END_STREAM, self.number, trailers)] if trailers else []
            self.open = False
            connection.write([*parts, *last, *([] if self.ended else [_reset(self.number, _NO_ERROR)])])

    async def _room(self) -> None:
        """Wait until there is room for more; a client that makes none for long gets no more."""
        try:
            async with asyncio.timeout(_STALLED_SECONDS):
                await self.moved()
        except TimeoutError:
            self.end()

    def end(self, code: int = _CANCEL) -> None:
        """End the request without an answer."""
        if self.open:
            self.open = False
            self.connection.write([_reset(self.number, code)])


Answer = Callable[[Stream], Coroutine[Any, Any, None]]
"""Answers a request, whose body may still be on its way."""


class Http2Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, answer: Answer, state: ServerState, most: int) -> None:
        """Make it.

        Args:
            answer: called with each request.
            state: the server's, whose connections and tasks these are too.
            most: connections that it may have.
        """
        self._answer, self._state, self._most = answer, state, most
        self.transport: Any = None
        self.address = ""
        self.window, self.largest_frame = _FIRST_WINDOW, _FIRST_FRAME
        self._streams: dict[int, Stream] = {}
        self._last, self._stream_window, self._received = 0, _FIRST_WINDOW, 0
        self._unread, self._greeted, self._leaving = b"", False, False
        self._head: tuple[int, int, bytes] | None = None  # stream, flags, and what there is of its headers
        self._since = time.monotonic()
        self._head_since: float | None = self._since
        self._decoder = hpack.Decoder(max_header_list_size=HEAD_BYTES)
        self._known: dict[bytes, Headers] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits_since(self) -> float | None:
        """When the server began to wait for the client; None while it works on a request."""
        found = [self._since]
        for stream in self._streams.values():
            if stream.waits_since is None:
                return None
            found.append(stream.waits_since)
        return max(found)

    def connection_made(self, transport: Any) -> None:
        """Take a connection, in place of another one if there are too many; say what is accepted."""
        self.transport = transport
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        self._state.connections.add(self)  # type: ignore[arg-type]
        make_room(self._state.connections, self._most)
        self._check_later()
        settings = {_MAX_STREAMS: MOST_STREAMS, _INITIAL_WINDOW: _LARGEST_WINDOW, _MAX_FRAME: _LARGEST_FRAME}
        settings |= {_MAX_HEADERS: HEAD_BYTES}
        said = b"".join(struct.pack(">HI", *pair) for pair in settings.items())
        self.write([frame(_SETTINGS, 0, 0, said), _room(_LARGEST_WINDOW - _FIRST_WINDOW)])

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what the client will not read any more."""
        self._state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self._streams.values()):
            self._give_up(stream)

    def pause_writing(self) -> None:
        """Read nothing from a client that does not read: what is sent to it stays bounded."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self.transport.resume_reading()

    def shutdown(self) -> None:
        """Take no more requests, and hang up once those at hand are answered (called by uvicorn)."""
        if not self._leaving:
            self._leaving = True
            self.write([frame(_GOAWAY, 0, 0, struct.pack(">II", self._last, _NO_ERROR))])
        if not self._streams:
            self.transport.close()

    def write(self, parts: Iterable[bytes]) -> None:
        """Send frames."""
        if not self.transport.is_closing():
            self.transport.write(b"".join(parts))

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        data = self._unread + data if self._unread else data
        try:
            at = 0 if self._greeted else self._greet(data)
            while self._greeted and (found := _next_frame(data, at)) is not None:
                kind, flags, number, payload, at = found
                self._frame(kind, flags, number, payload)
        except ConnectionFault as fault:
            self._unread = b""
            text = str(fault).encode()
            self.write([frame(_GOAWAY, 0, 0, struct.pack(">II", self._last, fault.code) + text)])
            self.transport.close()
            return
        self._unread = data[at:]

    def _greet(self, data: bytes) -> int:
        """Read the first bytes, which are always the same; give their number, 0 while some are missing."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ConnectionFault(_PROTOCOL, "this port speaks gRPC, by HTTP/2 without TLS")
        if len(data) < len(PREFACE):
            return 0
        self._greeted, self._head_since = True, None
        return len(PREFACE)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head is not None and (kind != _CONTINUATION or number != self._head[0]):
            raise ConnectionFault(_PROTOCOL, "headers are not continued")
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, flags, number, payload)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > _LARGEST_WINDOW // 2:
            self.write([_room(self._received)])
            self._received = 0
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            if number > self._last or number % 2 == 0:
                raise ConnectionFault(_PROTOCOL, "data of a request that has not begun")
            return  # what was sent before the client knew that the request has ended
        stream.body += _unpadded(flags, payload)
        stream.ended = bool(flags & _END_STREAM)
        stream.move()

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        payload = _unpadded(flags, payload)
        self._block(number, flags, payload[5:] if flags & _PRIORITY else payload)

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._head is None:
            raise ConnectionFault(_PROTOCOL, "a continuation of no headers")
        self._block(number, self._head[1] | flags, self._head[2] + payload)

    def _block(self, number: int, flags: int, block: bytes) -> None:
        """Take headers, once they are all there."""
        if len(block) > HEAD_BYTES:
            raise ConnectionFault(_CALM, f"headers are too long: at most {HEAD_BYTES} bytes are accepted")
        if not flags & _END_HEADERS:
            self._head_since = self._head_since or time.monotonic()
            self._head = (number, flags, block)
            return
        self._head = self._head_since = None
        headers = self._decoded(block)
        stream = self._streams.get(number)
        if stream is not None:  # trailers
            stream.ended = True
            stream.move()
        elif number % 2 == 0:
            raise ConnectionFault(_PROTOCOL, "requests of clients have odd numbers")
        elif number > self._last and not self._leaving:
            self._begin(number, headers, bool(flags & _END_STREAM))

    def _decoded(self, block: bytes) -> Headers:
        """Read a block; one of references alone means the same as before until another one changes the table."""
        found = self._known.get(block)
        if found is not None:
            return found
        try:
            pairs = [(str(name), str(value)) for name, value in self._decoder.decode(block)]
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ConnectionFault(_COMPRESSION, f"headers cannot be read ({type(error).__name__})") from None
        if len(pairs) > HEADERS:
            raise ConnectionFault(_CALM, f"{len(pairs)} headers: at most {HEADERS} are accepted")
        found = dict(pairs)
        if block and min(block) < 0x80:
            self._known.clear()
        elif len(self._known) < HEADERS:
            self._known[block] = found
        return found

    def _begin(self, number: int, headers: Headers, ended: bool) -> None:
        self._last = number
        if len(self._streams) >= MOST_STREAMS:
            self.write([_reset(number, _REFUSED)])
            return
        stream = self._streams[number] = Stream(self, number, headers, self._stream_window)
        stream.ended = ended
        stream.task = asyncio.get_running_loop().create_task(self._answer(stream))
        self._state.tasks.add(stream.task)
        stream.task.add_done_callback(lambda task: self._ended(stream, task))

    def _ended(self, stream: Stream, task: "asyncio.Task[None]") -> None:
        """See that a request's work has ended, with an answer or without."""
        stream.end()
        self._state.tasks.discard(task)
        self._since = time.monotonic()
        del self._streams[stream.number]
        if self._leaving and not self._streams:
            self.transport.close()
        if not task.cancelled():
            task.result()  # a bug: asyncio logs it

    def _given_up(self, flags: int, number: int, payload: bytes) -> None:
        """See that the client gives a request up; until its work has ended it counts."""
        if (stream := self._streams.get(number)) is not None:
            self._give_up(stream)

    def _give_up(self, stream: Stream) -> None:
        stream.open = False
        if stream.task is not None:
            stream.task.cancel()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if flags & _ACK:
            return
        if len(payload) % 6:
            raise ConnectionFault(_FRAME_SIZE, "settings of a wrong length")
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW:
                self._resize(value)
            elif name == _MAX_FRAME:
                self.largest_frame = min(max(value, _FIRST_FRAME), _LARGEST_FRAME)
        self.write([frame(_SETTINGS, _ACK, 0, b"")])

    def _resize(self, window: int) -> None:
        """Take another first window, for the requests at hand too."""
        if window > _LARGEST_WINDOW:
            raise ConnectionFault(_FLOW, "the window is too large")
        for stream in self._streams.values():
            stream.window += window - self._stream_window
            stream.move()
        self._stream_window = window

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ConnectionFault(_FRAME_SIZE, "a ping of a wrong length")
        if not flags & _ACK:
            self.write([frame(_PING, _ACK, 0, payload)])

    def _make_room(self, flags: int, number: int, payload: bytes) -> None:
        """See that the client has room for more."""
        if len(payload) != 4:
            raise ConnectionFault(_FRAME_SIZE, "an update of a window of a wrong length")
        more = int.from_bytes(payload) & _LARGEST_WINDOW
        stream = self._streams.get(number)
        if max(self.window if number == 0 else 0, stream.window if stream else 0) + more > _LARGEST_WINDOW:
            raise ConnectionFault(_FLOW, "the window is too large")
        if number == 0:
            self.window += more
        elif stream is not None:
            stream.window += more
        for one in list(self._streams.values()) if number == 0 else [stream] if stream else []:
            one.move()

    def _push(self, flags: int, number: int, payload: bytes) -> None:
        raise ConnectionFault(_PROTOCOL, "clients push nothing")

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)

    def _check(self) -> None:
        """Hang up on a client that does not greet, does not end its headers, or has asked nothing for long."""
        now = time.monotonic()
        late = self._head_since is not None and now - self._head_since > HEAD_SECONDS
        if late and not self._greeted:
            self.transport.close()
        elif late or (not self._streams and now - self._since > KEEP_SECONDS):
            self.write([frame(_GOAWAY, 0, 0, struct.pack(">II", self._last, _NO_ERROR))])
            self.transport.close()
        else:
            self._check_later()


_CHECK_SECONDS, _STALLED_SECONDS = 1.0, 30.0
_HANDLERS: Mapping[int, Callable[[Http2Connection, int, int, bytes], None]] = {
    _DATA: Http2Connection._data,
    _HEADERS: Http2Connection._headers,
    _RST: Http2Connection._given_up,
    _SETTINGS: Http2Connection._settings,
    _PUSH: Http2Connection._push,
    _PING: Http2Connection._ping,
    _WINDOW: Http2Connection._make_room,
    _CONTINUATION: Http2Connection._continuation,
}
"""What each kind of frame is for; the others ask for nothing."""


def frame(kind: int, flags: int, number: int, payload: bytes | memoryview) -> bytes:
    """Write a frame."""
    return b"".join([len(payload).to_bytes(3), bytes((kind, flags)), number.to_bytes(4), payload])


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Write headers, of which names are in lower case, as literals that leave the client's table alone."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    size, head = len(raw), bytearray()
    if size < 0x7F:
        return bytes((size,)) + raw
    head, size = bytearray(b"\x7f"), size - 0x7F
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*head, size)) + raw


def _next_frame(data: bytes, at: int) -> tuple[int, int, int, bytes, int] | None:
    """Read a frame: kind, flags, stream, payload, and where it ends; None if it is not all there."""
    if len(data) - at < 9:
        return None
    start = at + 9
    size = int.from_bytes(data[at : at + 3])
    if size > _LARGEST_FRAME:
        raise ConnectionFault(_FRAME_SIZE, f"a frame of {size} bytes: at most {_LARGEST_FRAME} are accepted")
    if len(data) - start < size:
        return None
    number = int.from_bytes(data[at + 5 : start]) & _LARGEST_WINDOW
    return data[at + 3], data[at + 4], number, data[start : start + size], start + size


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(_PROTOCOL, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _reset(number: int, code: int) -> bytes:
    return frame(_RST, 0, number, code.to_bytes(4))


def _room(more: int) -> bytes:
    """Write that the connection has room for so many more bytes."""
    return frame(_WINDOW, 0, 0, more.to_bytes(4))

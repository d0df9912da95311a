"""Request bodies: read within limits of size, time and memory, and decompressed within a limit of its own."""

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from starlette.requests import Request

from vlcompress.serve.refusal import Refusal, busy, invalid, shown

_DISCARD_SECONDS = 2.0
"""How long a body that is too large is read on, so that the client is done sending and can read the answer."""


@dataclass(frozen=True)
class BodyLimits:
    """Limits of one body: bytes as sent, bytes decompressed, and seconds to send it."""

    sent: int
    inflated: int
    seconds: float


class Budget:
    """The bytes of all bodies that are in memory at once."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    @contextmanager
    def hold(self) -> "Iterator[Held]":
        """Lend a share of the budget until the block ends."""
        held = Held(self)
        try:
            yield held
        finally:
            self.used -= held.bytes


@dataclass
class Held:
    """One request's share of the budget."""

    budget: Budget
    bytes: int = 0

    def add(self, count: int) -> None:
        """Take more bytes.

        Raises:
            Refusal: 503: all requests together hold too much.
        """
        if self.budget.used + count > self.budget.limit:
            raise busy("the server's memory for request bodies is used up", "memory")
        self.budget.used += count
        self.bytes += count


async def read_body(request: Request, limits: BodyLimits, held: Held) -> bytes:
    """Read and decompress a request's body.

    Args:
        request: of which nothing was read yet.
        limits: of its body.
        held: the request's share of memory.

    Raises:
        Refusal: 400 broken compression, 408 too slow, 413 too large, 415 unknown compression, 499 the client is gone,
            503 no memory.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.sent:
        await _discard(request, limits.sent)
        raise too_large(f"{declared} bytes", limits.sent)
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _receive(request, limits, held)
    except TimeoutError:
        text = f"the body did not arrive within {limits.seconds:g} s"
        raise Refusal(408, text, "slow_client", {"Connection": "close"}) from None
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    return body if encoding in ("", "identity") else inflated(body, encoding, limits.inflated, held)


async def _receive(request: Request, limits: BodyLimits, held: Held) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise gone()
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > limits.sent:
            chunks.clear()
            await _discard(request, limits.sent)
            raise too_large("more bytes", limits.sent)
        held.add(len(chunk))
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def gone() -> Refusal:
    """Build the end of a request whose client has gone; nobody reads it, but metrics and logs do."""
    return Refusal(499, "the client closed the request", "cancelled")


def inflated(body: bytes, encoding: str, limit: int, held: Held) -> bytes:
    """Decompress a body.

    Args:
        body: as sent.
        encoding: how it was compressed.
        limit: of bytes decompressed.
        held: the request's share of memory.

    Raises:
        Refusal: 400 broken compression, 413 too large, 415 unknown compression, 503 no memory.
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Refusal(415, f"Content-Encoding '{shown(encoding)}' is not supported: use gzip, deflate or identity")
    parts: list[bytes] = []
    size, rest = 0, body
    while rest or not parts:  # gzip data may be several files one after the other
        reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # recognises gzip and zlib by their headers
        try:
            parts.append(reader.decompress(rest, limit + 1 - size))
        except zlib.error as error:
            raise invalid(f"the body, or what follows its first part, is not {encoding} data: {error}") from None
        size += len(parts[-1])
        if size > limit:
            raise too_large("more bytes when decompressed", limit)
        if not reader.eof or (reader.unused_data and encoding == "deflate"):
            raise invalid(f"the {encoding} data of the body is cut, or something follows it")
        rest = reader.unused_data
    held.add(size)
    return b"".join(parts)


def too_large(size: str, limit: int) -> Refusal:
    """Build the refusal of a body that is larger than the limit."""
    return Refusal(413, f"the request body has {size}: at most {limit} are accepted", "too_large")


async def _discard(request: Request, limit: int) -> None:
    """Read on and throw away, for a moment and for as many bytes again as are allowed."""
    left = limit
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

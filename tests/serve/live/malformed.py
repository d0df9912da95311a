"""Requests that no honest client sends, drawn from a seed: raw bytes, and what the client does meanwhile."""

import asyncio
import contextlib
import copy
import functools
import gzip
import json
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

PATIENCE_S = 45.0
"""How long a client waits for an answer before it is counted as "silent"."""


@dataclass(frozen=True)
class Attempt:
    """One request.

    Attributes:
        kind: what is wrong with it.
        parts: bytes that are sent one after the other.
        pause_s: rest between the parts.
        after: what the client does then: "read" waits for an answer, "half-close" says first that no more will come,
            "leave" hangs up at once.
    """

    kind: str
    parts: tuple[bytes, ...]
    pause_s: float = 0.0
    after: str = "read"


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt: its kind, and the status, or "closed", "silent" or "left"."""

    kind: str
    status: str


def attempts(model: str, valid: Json, count: int, seed: int) -> Iterator[Attempt]:
    """Draw malformed requests.

    Args:
        model: name of a model that the server has.
        valid: JSON of a request that it would answer, with flat data; the first input holds integers.
        count: how many.
        seed: the same seed draws the same ones.
    """
    rng = random.Random(seed)
    makers = list(MAKERS.items())
    for index in range(count):
        kind, make = makers[index % len(makers)]
        yield make(kind, rng, f"/v2/models/{model}/infer", copy.deepcopy(valid))


async def send_all(url: str, drawn: Iterable[Attempt], at_once: int = 32) -> list[Outcome]:
    """Send requests to "host:port", `at_once` at a time."""
    host, port = url.split(":")
    gate = asyncio.Semaphore(at_once)

    async def one(attempt: Attempt) -> Outcome:
        async with gate:
            return await send(host, int(port), attempt)

    return await asyncio.gather(*(one(attempt) for attempt in drawn))


def wrong(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """List what must not happen: a status of 500 and above, except 503, and clients left without any answer."""
    return [
        found for found in outcomes if found.status == "silent" or (found.status[0] == "5" and found.status != "503")
    ]


async def send(host: str, port: int, attempt: Attempt) -> Outcome:
    """Send one request and give what came of it; never raises for what a server may do."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return Outcome(attempt.kind, await _send(host, port, attempt))
    except TimeoutError:
        return Outcome(attempt.kind, "silent")
    except OSError:
        return Outcome(attempt.kind, "closed")


async def _send(host: str, port: int, attempt: Attempt) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for part in attempt.parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(attempt.pause_s)
        if attempt.after == "leave":
            return "left"
        if attempt.after == "half-close":
            writer.write_eof()
        return await _status(reader)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _status(reader: asyncio.StreamReader) -> str:
    """Return the status of the first answer that is not "continue"; "closed" where there is none."""
    while line := await reader.readline():
        words = line.split()
        if words and words[0].startswith(b"HTTP/") and not words[1].startswith(b"1"):
            return words[1].decode()
    return "closed"


def http(path: str, body: bytes, *headers: str, method: str = "POST", length: int | str | None = None) -> bytes:
    """Write a request, with the length that it claims to have."""
    claimed = len(body) if length is None else length
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {claimed}",
        *headers,
    ]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def _bad_json(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    text = json.dumps(valid)
    at = rng.randrange(len(text))
    body = rng.choice(
        [
            text[:at],
            text[:at] + rng.choice('{}[]",:\\x0') * 2 + text[at:],
            text + rng.choice(["}", "]", "null", text]),
            text.replace('"', "'"),
            text.replace("[", "(", 1),
            text.replace(", ", ",,", 1),
            "NaN",
            "[" + text,
            rng.randbytes(200).hex(),
            " " * 5000,
        ]
    ).encode()
    return Attempt(kind, (http(path, body),))


def _not_finite(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    body = json.dumps(valid)
    tensor = rng.choice(valid["inputs"])
    word = rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e400", "9" * 5000])
    tensor["data"] = ["@", *tensor["data"][1:]]
    body = json.dumps(valid).replace('"@"', word)
    return Attempt(kind, (http(path, body.encode()),))


def _bad_utf8(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    text = json.dumps(valid).encode()
    wrong = rng.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\\ud800", b"\x00"])
    body = rng.choice(
        [
            text.replace(b"input_ids", b"input_" + wrong),
            wrong + text,
            text + wrong,
            json.dumps(valid).encode("utf-16"),
            b"\xef\xbb\xbf" + text,
            text.replace(b'"name"', b'"name' + wrong + b'"', 1),
        ]
    )
    return Attempt(kind, (http(path, body),))


def _wrong_headers(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    body = json.dumps(valid).encode()
    header = rng.choice(
        [
            "Content-Encoding: br",
            "Content-Encoding: gzip, gzip",
            "Content-Encoding: " + "x" * 500,
            "Transfer-Encoding: gzip, chunked",
            "Inference-Header-Content-Length: " + rng.choice(["-1", "1e3", "many", "9" * 40, " ", "0", "\u00b2"]),
            f"Inference-Header-Content-Length: {rng.randrange(len(body))}",
            f"Inference-Header-Content-Length: {len(body) + rng.randrange(1, 10**9)}",
            "Content-Length: 3",
            "Transfer-Encoding: chunked",
            "X-Long: " + "y" * rng.choice([5000, 100_000]),
            "Expect: 100-continue\r\nExpect: nothing",
            "Bad Header: 1",
            "No-Colon",
            "X-Null: a\x00b",
            "Authorization: Bearer " + rng.choice(["", "\udcff", "x" * 9000]),
            "traceparent: 00-zz-zz-99",
            "Accept-Encoding: " + rng.choice(["gzip;q=abc", "gzip;q=99", ",,,", "*;q=0"]),
            "\r\n".join(f"X-{i}: {i}" for i in range(400)),
        ]
    )  # fmt: skip
    waits = header == "Transfer-Encoding: chunked"  # for chunks that never come: say that the request has ended
    return Attempt(kind, (http(path, body, header),), after="half-close" if waits else "read")


def _wrong_line(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    body = json.dumps(valid).encode()
    request = rng.choice(
        [
            http(path, body, method=rng.choice(["PUT", "DELETE", "PATCH", "TRACE", "BREW", "", "GET"])),
            http("/v2/models/" + "%2e%2e/" * 20 + "etc/passwd", body),
            http("/v2/models/%00/infer", body),
            http("/v2/models/%ff%fe/infer", body),
            http("/v2/models/" + "a" * rng.choice([300, 100_000]) + "/infer", body),
            http(f"/v2/models/m/versions/{rng.choice(['-1', '0', '9' * 400, '1e1', '%20', '..'])}/infer", body),
            http("/v2/models//infer", body),
            http("/v1/vqa", json.dumps({"question": rng.choice([1, None, "x" * 10**6, ""]), "image": "@@"}).encode()),
            http("/v2/repository/models/x/load", body),
            http(path + "?" + "a=b&" * 5000, body),
            b"POST " + path.encode() + b" HTTP/9.9\r\n\r\n",
            b"POST " + path.encode() + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100),
            rng.randbytes(rng.randrange(1, 3000)) + b"\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    )  # fmt: skip
    return Attempt(kind, (request,))


def _lying_length(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    body = json.dumps(valid).encode()
    length: int | str = rng.choice(
        [len(body) - rng.randrange(1, 50), 0, "-5", "many", "0x10", "1e3", "9" * 30, 10**12, str(len(body)) + ", 7", ""]
    )
    return Attempt(kind, (http(path, body, length=length),), after="half-close")


def _lying_chunks(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = json.dumps(valid).encode()
    chunk = rng.choice(
        [
            b"%x\r\n%s\r\n" % (len(body) + 9, body),
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(body) - 9, body),
            b"zz\r\n%s\r\n0\r\n\r\n" % body,
            b"-5\r\n%s\r\n0\r\n\r\n" % body,
            b"ffffffffffffffffff\r\n%s" % body,
            b"0\r\n\r\n",
            b"%x;%s\r\n%s\r\n0\r\n\r\n" % (len(body), b"e" * 9000, body),
        ]
    )
    return Attempt(kind, (head, chunk), after="half-close")


def _lying_binary(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    tail = b""
    for tensor in valid["inputs"]:
        form = "q" if tensor["datatype"].startswith("INT") else "f"
        data = struct.pack(f"<{len(tensor['data'])}{form}", *tensor.pop("data"))
        tensor["parameters"] = {"binary_data_size": len(data)}
        tail += data
    wrong: Any = rng.choice([-1, 0, 2**31, 2**63, 2**70, "8", 1.5, None, [], True, rng.randrange(1, 400)])
    rng.choice(valid["inputs"])["parameters"] = rng.choice(
        [{"binary_data_size": wrong}, [], "x", {"shared_memory_region": "r"}, {"binary_data_size": wrong, "a": {}}]
    )
    head = json.dumps(valid).encode()
    tail = rng.choice([tail, tail[:-3], b"", tail * 2, rng.randbytes(len(tail))])
    return Attempt(kind, (http(path, head + tail, f"Inference-Header-Content-Length: {len(head)}"),))


def _random_floats(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    """Well-formed binary whose bits are arbitrary: NaN, infinities, ids far outside the vocabulary."""
    tail = b""
    for tensor in valid["inputs"]:
        data = rng.randbytes(len(tensor.pop("data")) * (8 if tensor["datatype"] == "INT64" else 4))
        tensor["parameters"] = {"binary_data_size": len(data)}
        tail += data
    head = json.dumps(valid).encode()
    return Attempt(kind, (http(path, head + tail, f"Inference-Header-Content-Length: {len(head)}"),))


def _huge_shape(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    tensor = rng.choice(valid["inputs"])
    tensor["shape"] = rng.choice(
        [
            [10**9, 10**9], [2**63, 2], [2**64, 1], [-1, 5], [0, 12], [1, 0], [], [1] * 10_000, [2**32, 2**32],
            [1, 10**6], [1.5, 2], ["1", "2"], [None], [[1, 2]], "1,2", 12, [True, False], [10**400],
        ]
    )  # fmt: skip
    if rng.random() < 0.3:
        tensor["data"] = []
    return Attempt(kind, (http(path, json.dumps(valid).encode()),))


def _deep(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    depth = rng.choice([500, 5000, 200_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    deep = opening * depth + rng.choice(["1", ""]) + closing * rng.choice([depth, 0])
    place = rng.choice(["data", "body", "parameters"])
    if place == "body":
        return Attempt(kind, (http(path, deep.encode()),))
    valid["inputs"][0][place] = "@"
    return Attempt(kind, (http(path, json.dumps(valid).replace('"@"', deep).encode()),))


def _wrong_types(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    junk: Any = rng.choice([None, True, -1, 1.5, 10**30, "", "x" * 3000, [], {}, [None], {"a": [1]}, [[[1]]]])
    tensor = rng.choice(valid["inputs"])
    key = rng.choice(
        ["name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id", "element", "request"]
    )
    if key in ("inputs", "outputs", "id"):
        valid[key] = junk
    elif key == "request":
        valid["parameters"] = rng.choice([junk, {"timeout": junk}, {"binary_data_output": junk}, {"priority": junk}])
    elif key == "element":
        tensor["data"][rng.randrange(len(tensor["data"]))] = junk
    else:
        tensor[key] = junk
    if rng.random() < 0.2:
        valid["outputs"] = [{"name": "logits", "parameters": {"classification": junk, "binary_data": junk}}]
    return Attempt(kind, (http(path, json.dumps(valid).encode()),))


def _bad_gzip(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    packed = gzip.compress(json.dumps(valid).encode())
    at = rng.randrange(10, len(packed))
    coding = rng.choice(["gzip", "deflate"])
    body = rng.choice(
        [packed[:at], packed[:at] + b"\x00\xff" + packed[at:], b"plain", b"", packed + packed, rng.randbytes(300)]
    )
    return Attempt(kind, (http(path, body, f"Content-Encoding: {coding}"),))


@functools.cache
def _inflating() -> bytes:
    """Return some 100 KB that inflate to 100 MB."""
    return gzip.compress(b"[" * (100 << 20), 6)


def _bomb(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    body = rng.choice([_inflating(), _inflating()[:-20]])
    return Attempt(kind, (http(path, body, "Content-Encoding: gzip"),))


def _slow(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    request = http(path, json.dumps(valid).encode())
    cut = sorted(rng.sample(range(1, len(request)), 5))
    ends = [*cut, len(request)] if rng.random() < 0.3 else cut
    parts = tuple(request[start:end] for start, end in zip([0, *cut], ends, strict=False))
    return Attempt(kind, parts, pause_s=rng.choice([0.02, 0.1]), after=rng.choice(["leave", "half-close"]))


def _half_closed(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    request = http(path, json.dumps(valid).encode())
    at = rng.choice([len(request), rng.randrange(1, len(request))])
    return Attempt(kind, (request[:at],), after="half-close")


def _leaver(kind: str, rng: random.Random, path: str, valid: Json) -> Attempt:
    """A whole, valid request of a client that does not wait for the answer."""
    return Attempt(kind, (http(path, json.dumps(valid).encode()),), after="leave")


MAKERS: dict[str, Callable[[str, random.Random, str, Json], Attempt]] = {
    "bad json": _bad_json,
    "not finite": _not_finite,
    "bad utf-8": _bad_utf8,
    "wrong headers": _wrong_headers,
    "wrong request line": _wrong_line,
    "lying length": _lying_length,
    "lying chunks": _lying_chunks,
    "lying binary size": _lying_binary,
    "random bits": _random_floats,
    "huge shape": _huge_shape,
    "deep nesting": _deep,
    "wrong types": _wrong_types,
    "bad gzip": _bad_gzip,
    "gzip bomb": _bomb,
    "slow client": _slow,
    "half-closed": _half_closed,
    "leaves at once": _leaver,
}

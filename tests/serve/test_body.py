"""Limits of bodies: size as sent, size decompressed, time, and memory over all requests."""

import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.conftest import Client, running, words_request
from vlcompress.serve.app import create_app
from vlcompress.serve.settings import Settings

INFER = "/v2/models/words/infer"
BODY = json.dumps(words_request([[1, 2]])).encode()


@pytest.fixture
def small(settings: Callable[..., Settings]) -> Client:
    """A client of an app that accepts little."""
    return Client(create_app(settings(max_body_bytes=1000, max_inflated_bytes=2000, max_inflight_bytes=2500)))


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:20]) + gzip.compress(b"") + gzip.compress(body[20:])),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
def test_compressed_bodies(client: Client, encoding: str, encode: Callable[[bytes], bytes]) -> None:
    found = client.post(INFER, content=encode(BODY), headers={"Content-Encoding": encoding})
    assert found.status_code == 200, found.text


def test_a_body_that_is_too_large_is_413_with_and_without_a_declared_length(small: Client) -> None:
    async def pieces() -> Any:
        for _ in range(5):
            yield b" " * 300

    declared = small.post(INFER, content=b" " * 1001)
    assert declared.status_code == 413
    assert declared.json()["error"] == "the request body has 1001 bytes: at most 1000 are accepted"
    assert small.post(INFER, content=pieces()).status_code == 413
    assert small.server.budget.used == 0


def test_a_decompression_bomb_is_413_and_never_inflated(small: Client) -> None:
    bomb = gzip.compress(bytes(500_000))
    assert len(bomb) < 1000
    found = small.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert found.status_code == 413
    assert "when decompressed: at most 2000" in found.json()["error"]
    several = b"".join(gzip.compress(bytes(150)) for _ in range(20))
    found = small.post(INFER, content=several, headers={"Content-Encoding": "gzip"})
    assert found.status_code == 413


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(BODY)[:-9], gzip.compress(BODY) + b"more", gzip.compress(b"{") * 2 + b"\x1f\x8b", b""],
    ids=["none", "cut", "more", "second cut", "empty"],
)
def test_broken_compression_is_400(client: Client, content: bytes) -> None:
    found = client.post(INFER, content=content, headers={"Content-Encoding": "gzip"})
    assert found.status_code == 400
    assert "gzip" in found.json()["error"]


def test_unknown_compression_is_415(client: Client) -> None:
    found = client.post(INFER, content=BODY, headers={"Content-Encoding": "br"})
    assert found.status_code == 415
    assert "use gzip, deflate or identity" in found.json()["error"]


def test_memory_for_bodies_is_bounded_over_all_requests(small: Client) -> None:
    small.server.budget.used = 2000
    found = small.post(INFER, content=BODY + b" " * (800 - len(BODY)))
    assert found.status_code == 503
    assert found.headers["retry-after"] == "1"
    small.server.budget.used = 0
    assert small.post(INFER, content=BODY).status_code == 200
    assert small.server.budget.used == 0


def test_a_client_that_sends_too_slowly_is_told_and_let_go(settings: Callable[..., Settings]) -> None:
    with running(settings(body_seconds=0.2)) as (address, _):
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v2/models/words/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            start = time.monotonic()
            answer = slow.recv(4096)
            while chunk := slow.recv(4096):
                answer += chunk
        assert time.monotonic() - start < 2
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.2 s" in answer


def test_a_client_that_goes_away_while_sending_leaves_nothing_behind(settings: Callable[..., Settings]) -> None:
    with running(settings()) as (address, server):
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(b"POST /v2/models/words/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.1)
        time.sleep(0.2)
        assert server._server.budget.used == 0
        text = server._server.metrics.text().decode()
        assert 'vlcompress_requests_total{code="499",model="words",version="2"} 1.0' in text

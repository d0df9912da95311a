"""Clients that take their time, say too much, or stop talking: the others are answered all the same."""

import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest

from tests.serve.conftest import running, words_request
from tests.serve.test_server import _until as until
from tests.serve.test_server import slow
from vlcompress.serve import connections
from vlcompress.serve.connections import Connection, most_connections
from vlcompress.serve.settings import Settings

Make = Callable[..., Settings]
HALF = b"POST /v2/models/words/infer HTTP/1.1\r\nHost: x\r\nX-a: "


@pytest.fixture
def clients() -> Iterator[Callable[[str], socket.socket]]:
    """Opens plain connections, which end with the test."""
    with ExitStack() as stack:

        def connect(address: str) -> socket.socket:
            host, _, port = address.partition(":")
            return stack.enter_context(socket.create_connection((host, int(port)), timeout=10))

        yield connect


def infer(body: Any = None) -> bytes:
    text = json.dumps(body or words_request([[1]])).encode()
    return f"POST /v2/models/words/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


def rest(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    found = b""
    try:
        while part := client.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found


def test_connections_that_never_finish_a_request_keep_nobody_out(
    settings: Make, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 20)
    with running(settings(stop_seconds=1.0)) as (address, server):
        held = [clients(address) for _ in range(60)]
        for index, one in enumerate(held):
            one.sendall(HALF if index % 2 else infer()[:-5])  # headers, or a body, that never ends
        for _ in range(5):
            assert httpx.get(f"http://{address}/v2/health/ready").status_code == 200
            assert httpx.post(f"http://{address}/v2/models/words/infer", json=words_request([[1]])).status_code == 200
        until(lambda: len(server.server_state.connections) <= 20)
        assert rest(held[0]) == b""  # it waited longest


def test_a_connection_that_is_worked_for_outlives_newer_ones(
    settings: Make, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 5)
    with running(settings()) as (address, server):
        slow(server.config.app, 0.3)
        first = clients(address)
        first.sendall(infer())
        until(lambda: server.config.app.state.server.repository.get("words").batcher.busy)  # type: ignore[union-attr]
        for _ in range(10):
            clients(address).sendall(HALF)
        assert first.recv(100).startswith(b"HTTP/1.1 200")


class Other:
    """A connection that does nothing but wait."""

    def __init__(self, host: str, since: float | None) -> None:
        self.address, self.waits_since, self.transport, self.closed = host, since, self, False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


def test_the_address_with_most_connections_gives_one_up() -> None:
    one, old, young, busy = Other("a", 1.0), Other("b", 2.0), Other("b", 3.0), Other("b", None)
    for there in ([one, young, old, busy], [one, old], [busy]):
        connections.make_room(there, len(there))
        connections.make_room(there, len(there) - 1)
        assert [other.closed for other in (old, one, busy)].count(True) == 1
        (gone,) = (other for other in there if other.closed)
        assert gone is (there[2] if len(there) == 4 else there[0])
        gone.closed = False


def test_who_gives_way_is_looked_up_for_many_at_once_and_still_waits_then(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list[int]()
    longest = connections._longest_waiting
    monkeypatch.setattr(connections, "_longest_waiting", lambda found: looks.append(len(found)) or longest(found))
    there = [Other("a", float(since)) for since in range(160)]
    for _ in range(20):
        connections.make_room(there, 159)
    assert [one.closed for one in there] == [True] * 20 + [False] * 140
    assert len(looks) == 3  # ten give way after the first one, then nine
    there[20].waits_since = 500.0  # it has said something meanwhile
    connections._going[:] = [(there[20], 20.0)]
    connections.make_room(there, 159)
    assert (there[20].closed, there[21].closed) == (False, True)


@pytest.mark.parametrize(("sent", "says"), [(b"", b""), (HALF, b"HTTP/1.1 408 Request Timeout")])
def test_headers_must_come_in_time(
    settings: Make, clients: Any, monkeypatch: pytest.MonkeyPatch, sent: bytes, says: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with running(settings()) as (address, _):
        client = clients(address)
        client.sendall(sent)
        found = rest(client)
        assert found.startswith(says)
        assert (b"did not arrive within 0.2 s" in found) == bool(sent)


def test_a_kept_connection_has_its_time_anew_for_each_request(
    settings: Make, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with running(settings()) as (address, _):
        client = clients(address)
        for _ in range(3):
            client.sendall(infer())
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
        client.sendall(HALF)
        assert rest(client).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ([b"X-%d: 1" % i for i in range(101)], b"at most 100 are accepted"),
        ([b"X: " + b"y" * 400_000], b"at most 65536 bytes are accepted"),
    ],
    ids=["many", "long"],
)
def test_headers_are_limited(settings: Make, clients: Any, headers: list[bytes], says: bytes) -> None:
    with running(settings(token="s3cret")) as (address, _):
        client = clients(address)
        with suppress(OSError):
            client.sendall(b"\r\n".join([b"GET /v2 HTTP/1.1", b"Host: x", *headers, b"", b""]))
        found = rest(client)
        assert found.startswith(b"HTTP/1.1 431 ")
        assert says in found


def test_a_large_body_behind_short_headers_is_no_long_header(settings: Make, clients: Any) -> None:
    ids = [[1] * 1000] * 32
    with running(settings()) as (address, _):
        client = clients(address)
        for _ in range(2):
            client.sendall(infer(words_request(ids)))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_what_is_not_http_is_refused_in_the_protocols_form(settings: Make, clients: Any) -> None:
    with running(settings()) as (address, _):
        client = clients(address)
        client.sendall(b"HELO\r\n\r\n")
        head, _, body = rest(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert set(json.loads(body)) == {"error"}


def test_a_client_that_closed_its_half_gets_its_answer(settings: Make, clients: Any) -> None:
    with running(settings()) as (address, server):
        slow(server.config.app, 0.3)
        client = clients(address)
        client.sendall(infer())
        client.shutdown(socket.SHUT_WR)
        found = rest(client)  # ends: the connection is closed behind the answer
        interim, _, answer = found.rpartition(b"HTTP/1.1 200 OK\r\n")
        assert b'"outputs"' in answer
        assert interim in (b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 2)


def test_a_client_that_closed_its_half_before_its_request_ended_is_let_go(settings: Make, clients: Any) -> None:
    with running(settings()) as (address, _):
        client = clients(address)
        client.sendall(infer()[:-3])
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""


def test_the_limit_of_open_files_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert most_connections() == 924
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert most_connections() == 1 << 16

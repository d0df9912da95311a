"""HTTP/2 below gRPC: what clients may say and in what pieces, what ends a connection, and who has to give way."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import hpack
import httpx
import pytest

from tests.serve.conftest import running
from tests.serve.test_connections import clients as clients
from tests.serve.test_connections import rest
from tests.serve.test_grpc import INFER, call, typed_words
from tests.serve.test_server import _until as until
from tests.serve.test_server import slow
from vlcompress.serve import http2, run
from vlcompress.serve.connections import Connection
from vlcompress.serve.http2 import PREFACE, Http2Connection, block, frame
from vlcompress.serve.settings import Settings

Make = Callable[..., Settings]
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ASKED = {":method": "POST", ":path": INFER, "content-type": "application/grpc"}


def head(**changes: str) -> bytes:
    return block({**ASKED, **changes}.items())


def message(ids: list[list[int]]) -> bytes:
    raw: bytes = typed_words(ids).SerializeToString()
    return b"\0" + len(raw).to_bytes(4) + raw


class Client:
    """A client that writes its own frames."""

    def __init__(self, connection: socket.socket, settings: bytes = b"") -> None:
        self.socket, self.decoder, self.unread = connection, hpack.Decoder(), b""
        self.send(PREFACE, frame(SETTINGS, 0, 0, settings))

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Read frames until the server hangs up."""
        while True:
            while len(self.unread) < 9 or len(self.unread) < 9 + int.from_bytes(self.unread[:3]):
                part = self.socket.recv(1 << 16)
                if not part:
                    return
                self.unread += part
            end = 9 + int.from_bytes(self.unread[:3])
            found, self.unread = self.unread[:end], self.unread[end:]
            yield found[3], found[4], int.from_bytes(found[5:9]), found[9:]

    def answer(self, number: int) -> tuple[bytes, dict[str, str]]:
        """Read a whole answer: its body, and all its headers."""
        body, headers = b"", dict[str, str]()
        for kind, flags, found, payload in self.frames():
            if found == number and kind == DATA:
                body += payload
            if kind == HEADERS:
                headers |= {str(name): str(value) for name, value in self.decoder.decode(payload)}
            if found == number and kind == HEADERS and flags & 1:
                return body, headers
        raise AssertionError("the server hung up")

    def wait_for(self, kind: int) -> bytes:
        return next(payload for found, flags, _, payload in self.frames() if found == kind and not flags & 1)


@pytest.fixture
def address(settings: Make) -> Iterator[str]:
    with running(settings(grpc_port=0, body_seconds=0.3)) as (_, server):
        yield f"127.0.0.1:{server.grpc_port}"


@pytest.fixture
def client(address: str, clients: Any) -> Client:
    return Client(clients(address))


def test_a_call_may_come_byte_by_byte_padded_and_with_its_headers_in_pieces(client: Client) -> None:
    asked, sent = head(), message([[1, 2]])
    padded = bytes([3]) + bytes(5) + asked[:7] + bytes(3)  # with a priority, which asks for nothing
    pieces = [
        frame(HEADERS, 8 | 32, 1, padded),
        frame(CONTINUATION, 0, 1, asked[7:9]),
        frame(CONTINUATION, 4, 1, asked[9:]),
    ]
    pieces += [frame(DATA, 0, 1, sent[:4]), frame(DATA, 8, 1, b"\x02" + sent[4:] + b"\0\0"), frame(DATA, 1, 1, b"")]
    for one in b"".join(pieces):
        client.send(bytes([one]))
    body, headers = client.answer(1)
    assert (headers["grpc-status"], body[0]) == ("0", 0)
    assert int.from_bytes(body[1:5]) == len(body) - 5


def test_headers_are_read_as_a_plain_decoder_reads_them() -> None:
    rng, encoder, plain = random.Random(0), hpack.Encoder(), hpack.Decoder()
    own, known = Http2Connection(None, None, 1), 0  # type: ignore[arg-type]
    for index in range(300):
        if index % 50 == 49:
            encoder.header_table_size = rng.choice([0, 100, 4096])
        pairs = [(rng.choice([":path", "x-a", "te"]), rng.choice(["a", "b", "cc"])) for _ in range(rng.choice([1, 3]))]
        sent = encoder.encode(pairs)
        known += sent in own._known
        assert own._decoded(sent) == dict(plain.decode(sent))
    assert known > 20


def test_a_large_answer_waits_for_the_clients_room(address: str, clients: Any) -> None:
    client = Client(clients(address), b"\0\x04" + (10).to_bytes(4))
    client.send(frame(HEADERS, 4, 1, head()), frame(DATA, 1, 1, message([[1]] * 3)))
    assert len(client.wait_for(DATA)) == 10
    client.send(frame(WINDOW, 0, 1, (7).to_bytes(4)))
    assert len(client.wait_for(DATA)) == 7
    client.send(frame(SETTINGS, 0, 0, b"\0\x04" + (1000).to_bytes(4)))  # more room for every request
    body, headers = client.answer(1)
    assert (headers["grpc-status"], len(body) > 84) == ("0", True)  # 3 rows of 7 scores


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(DATA, 1, 1, b""), 1),  # of a request that has not begun
        (frame(HEADERS, 4, 2, head()), 1),  # an even number
        (frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, bytes(8)), 1),  # headers that are not continued
        (frame(CONTINUATION, 4, 1, b""), 1),
        (frame(5, 4, 1, bytes(4)), 1),  # a push
        (frame(HEADERS, 4 | 8, 1, b"\x09\x82"), 1),  # more padding than payload
        (frame(HEADERS, 4, 1, b"\xff\xff"), 9),  # no headers
        (frame(HEADERS, 4, 1, b"\x82" * 200), 11),  # too many
        (frame(HEADERS, 0, 1, b"\0" * 40_000) + frame(CONTINUATION, 0, 1, b"\0" * 40_000), 11),  # too long
        (frame(PING, 0, 0, b"1"), 6),
        (frame(SETTINGS, 0, 0, b"1"), 6),
        (frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"), 3),  # too large a window
        (frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), 3),
        (frame(WINDOW, 0, 0, b""), 6),
        (b"\x20\0\0\0\0\0\0\0\1", 6),  # a frame of 2 MiB
    ],
)  # fmt: skip
def test_what_breaks_the_protocol_ends_the_connection_with_its_code(client: Client, sent: bytes, code: int) -> None:
    client.send(sent)
    assert int.from_bytes(client.wait_for(GOAWAY)[4:8]) == code
    assert list(client.frames()) == []


def test_another_protocol_is_told_what_this_port_speaks(address: str, clients: Any) -> None:
    other = clients(address)
    other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"this port speaks gRPC" in rest(other)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"content-type": "text/html"}, (None, "")),
        ({":path": "/inference.GRPCInferenceService/Nothing"}, ("12", "call ServerLive")),
        ({":path": "/inference.GRPCInferenceService/ModelStreamInfer"}, ("12", "not offered")),
        ({"grpc-timeout": "never"}, ("3", "grpc-timeout is 'never'")),
    ],
)  # fmt: skip
def test_a_refusal_does_not_wait_for_the_message(client: Client, headers: dict[str, str], says: Any) -> None:
    client.send(frame(HEADERS, 4, 1, head(**headers)))
    _, found = client.answer(1)
    assert found[":status"] == ("200" if says[0] else "415")
    assert (found.get("grpc-status"), says[1] in found.get("grpc-message", "")) == (says[0], True)
    assert client.wait_for(RESET) == bytes(4)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", "4"),  # in time, nothing comes
        (b"\0\0\0\0\x05ab", "4"),
        (b"\0\x7f\xff\xff\xff", "8"),  # 2 GiB are announced
    ],
)  # fmt: skip
def test_a_message_that_does_not_come_or_is_too_large_is_refused(client: Client, sent: bytes, status: str) -> None:
    client.send(frame(HEADERS, 4, 1, head()), frame(DATA, 0, 1, sent))
    assert client.answer(1)[1]["grpc-status"] == status


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\0\x05ab", b"\0\0\0\0\x01abc", b"\x01\0\0\0\x03abc"])
def test_what_is_not_one_message_is_the_clients_mistake(client: Client, sent: bytes) -> None:
    client.send(frame(HEADERS, 4, 1, head(**{"grpc-encoding": "gzip"})), frame(DATA, 1, 1, sent))
    assert client.answer(1)[1]["grpc-status"] == "3"


def test_connections_that_never_finish_a_call_keep_nobody_out(
    settings: Make,
    clients: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Connection, "most", 20)
    monkeypatch.setattr(run, "most_connections", lambda: 20)
    with running(settings(grpc_port=0, stop_seconds=1.0)) as (http, server):
        address = f"127.0.0.1:{server.grpc_port}"
        started = [
            b"",
            PREFACE[:5],
            PREFACE,
            PREFACE + frame(HEADERS, 0, 1, b""),
            PREFACE + frame(HEADERS, 4, 1, head()),
        ]
        held = [clients(address) for _ in range(60)]
        for index, one in enumerate(held):
            one.sendall(started[index % len(started)])
        for _ in range(5):
            assert call(address, typed_words([[1]])).outputs
            assert httpx.get(f"http://{http}/v2/health/ready").status_code == 200
        until(lambda: len(server.server_state.connections) <= 20)


@pytest.mark.parametrize("sent", [b"", PREFACE + frame(HEADERS, 0, 1, b"")])
def test_greeting_and_headers_must_come_in_time(
    address: str,
    clients: Any,
    monkeypatch: pytest.MonkeyPatch,
    sent: bytes,
) -> None:
    monkeypatch.setattr(http2, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(http2, "_CHECK_SECONDS", 0.1)
    client = clients(address)
    client.sendall(sent)
    rest(client)  # ends


def test_requests_given_up_count_until_their_work_has_ended(
    settings: Make,
    clients: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http2, "MOST_STREAMS", 3)
    with running(settings(grpc_port=0)) as (_, server):
        client = Client(clients(f"127.0.0.1:{server.grpc_port}"))
        one = [[frame(HEADERS, 5, number, head()), frame(RESET, 0, number, bytes(4))] for number in (1, 3, 5, 7)]
        client.send(*(part for parts in one for part in parts))
        assert client.wait_for(RESET) == (7).to_bytes(4)  # the fourth is refused
        time.sleep(0.2)
        client.send(frame(HEADERS, 4, 9, head()), frame(DATA, 1, 9, message([[1]])))
        assert client.answer(9)[1]["grpc-status"] == "0"


def test_a_client_that_reads_nothing_is_read_no_further(client: Client) -> None:
    client.socket.settimeout(1.0)
    pings = frame(PING, 0, 0, bytes(8)) * 2_000_000
    with pytest.raises(TimeoutError):
        client.send(pings)


def test_a_server_that_stops_answers_what_is_in_flight_and_hangs_up(settings: Make) -> None:
    with running(settings(grpc_port=0, drain_seconds=0.0)) as (_, server):
        slow(server.config.app, 0.4)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            pending = channel.unary_unary(INFER).future(typed_words([[1]]).SerializeToString())
            until(lambda: server.config.app.state.server.repository.get("words").batcher.busy)  # type: ignore[union-attr]
            server.should_exit = True
            assert pending.result()
            until(lambda: not server.server_state.connections)

"""Designs of a gRPC server in Python: what each costs a small call, before any work is done for it.

    python -m bench.grpc_designs [--out FILE]

Every design echoes a message's first bytes, in a process of its own. Calls go one at a time, designs in turn, from two
clients: frames that are written beforehand on a plain socket, which cost next to nothing, and grpcio's, in C. HTTP/1.1
is asked likewise, by a plain socket and by http.client. The library h2 is needed besides what the project installs.
"""

import argparse
import asyncio
import http.client
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvicorn
import uvloop
from uvicorn.server import ServerState

from bench.records import write_record
from vlcompress.bench.served import free_port
from vlcompress.serve.http2 import PREFACE, Http2Connection, Stream, block, frame

BODY, ANSWER, ROUNDS, CALLS = bytes(6000), 40, 7, 300
_PATH = "/echo/echo"
_HEAD = block([(":status", "200"), ("content-type", "application/grpc")])
_GOOD = block([("grpc-status", "0")])
_ASKED = [(":method", "POST"), (":scheme", "http"), (":path", _PATH), (":authority", "x")]
_ASKED += [("content-type", "application/grpc"), ("te", "trailers")]


async def _ours(port: int) -> None:
    async def answer(stream: Stream) -> None:
        while not stream.ended:
            await stream.moved()
        await stream.send(_HEAD, _message(bytes(stream.body[5 : 5 + ANSWER])), _GOOD)

    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Http2Connection(answer, ServerState(), 100), "127.0.0.1", port)
    await listening.serve_forever()


async def _h2(port: int) -> None:
    import h2.config
    import h2.connection
    import h2.events

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.bodies = transport, dict[int, bytearray]()
            self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            self.state.initiate_connection()
            transport.write(self.state.data_to_send())

        def data_received(self, data: bytes) -> None:
            for event in self.state.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                    self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    body = bytes(self.bodies.pop(event.stream_id))
                    self.state.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    self.state.send_data(event.stream_id, _message(body[5 : 5 + ANSWER]))
                    self.state.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            self.transport.write(self.state.data_to_send())

    listening = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", port)
    await listening.serve_forever()


async def _grpc_aio(port: int) -> None:
    async def answer(raw: bytes, context: Any) -> bytes:
        return raw[:ANSWER]

    server = grpc.aio.server()
    server.add_registered_method_handlers("echo", {"echo": grpc.unary_unary_rpc_method_handler(answer)})
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def _grpc_threads(port: int) -> None:
    """Answer on threads, with one hop to the event loop and back, where the queue of requests is."""
    loop = asyncio.get_running_loop()

    async def work(raw: bytes) -> bytes:
        return raw[:ANSWER]

    def answer(raw: bytes, context: Any) -> bytes:
        return asyncio.run_coroutine_threadsafe(work(raw), loop).result()

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_registered_method_handlers("echo", {"echo": grpc.unary_unary_rpc_method_handler(answer)})
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    await asyncio.Event().wait()


async def _http(port: int) -> None:
    """Answer over HTTP/1.1 with what the project serves it by."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % ANSWER)]})
        await send({"type": "http.response.body", "body": body[:ANSWER]})

    await uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_level="error")).serve()


DESIGNS: dict[str, Callable[[int], Any]] = {
    "http/1.1": _http, "own frames": _ours, "h2": _h2, "grpc.aio": _grpc_aio, "grpc, threads": _grpc_threads,
}  # fmt: skip


def _message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4) + body


class RawCalls:
    """Calls as frames on a plain socket."""

    def __init__(self, port: int) -> None:
        self.socket, self.number = socket.create_connection(("127.0.0.1", port)), -1
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(PREFACE + frame(4, 0, 0, b""))
        self.first = b"".join(b"\x40" + block([pair])[1:] for pair in _ASKED)  # into the server's table
        self.head = bytes(0x80 + 62 + index for index in reversed(range(len(_ASKED))))  # from there
        self.body = _message(BODY)

    def __call__(self) -> None:
        self.number += 2
        room = [frame(8, 0, 0, len(self.body).to_bytes(4))] if self.number % 20 == 1 else []
        request = [
            *room,
            frame(1, 4, self.number, self.first if self.number == 1 else self.head),
            frame(0, 1, self.number, self.body),
        ]
        self.socket.sendall(b"".join(request))
        end = self.number.to_bytes(4)
        got = b""
        while not _ended(got, end):
            got += self.socket.recv(65536)


def _ended(data: bytes, number: bytes) -> bool:
    at = 0
    while len(data) - at >= 9:
        if data[at + 3] == 1 and data[at + 4] & 1 and data[at + 5 : at + 9] == number:
            return True
        at += 9 + int.from_bytes(data[at : at + 3])
    return False


class RawHttp:
    """Requests of HTTP/1.1 on a plain socket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self) -> None:
        self.socket.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        got = b""
        while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < ANSWER:
            got += self.socket.recv(65536)


def _clients(design: str, port: int) -> dict[str, Callable[[], object]]:
    if design == "http/1.1":
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def ask() -> None:
            connection.request("POST", "/", BODY)
            connection.getresponse().read()

        return {"socket": RawHttp(port), "client": ask}
    method = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary(_PATH)
    return {"socket": RawCalls(port), "client": lambda: method(BODY)}


def _p50_us(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def measure() -> dict[str, Any]:
    """Time every design and client in rounds that take turns."""
    ports = {name: free_port() for name in DESIGNS}
    command = [sys.executable, "-m", "bench.grpc_designs", "--serve"]
    servers = [subprocess.Popen([*command, name, str(port)]) for name, port in ports.items()]
    try:
        for port in ports.values():
            _wait(port)
        calls = {(name, kind): call for name in ports for kind, call in _clients(name, ports[name]).items()}
        found: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for _ in range(ROUNDS):
            for key, call in calls.items():
                found[key].append(_p50_us(call))
    finally:
        for server in servers:
            server.kill()
    return {f"{name}, {kind}": _summary(values) for (name, kind), values in found.items()}


def _summary(values: list[float]) -> dict[str, float]:
    low, high = np.percentile(values, [25, 75])
    return {"median_us": round(statistics.median(values), 1), "spread_us": round(float(high - low), 1)}


def _wait(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nobody listens on port {port}: is h2 installed?")


def main() -> None:
    """Measure and write the record, or be one of the servers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("DESIGN", "PORT"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(DESIGNS[arguments.serve[0]](int(arguments.serve[1])))
        return
    found = {"body": len(BODY), "rounds": ROUNDS, "calls": CALLS, "p50": measure()}
    write_record("python -m bench.grpc_designs", found, arguments.out)


if __name__ == "__main__":
    main()

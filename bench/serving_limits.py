"""Clients that hold connections open, and models that are replaced: nobody else notices either, on either protocol.

    python -m bench.serving_limits RUN [--out bench/results/serving/limits.json]

- slowloris: a server that may open 1,024 files gets 1,100 connections a protocol that never finish what they began;
  health and inference are asked all the while, over both protocols;
- reloads: a new version of the model arrives 12 times, file by file and out of order, while both protocols ask as fast
  as answers come; what is answered must be right.
"""

import argparse
import asyncio
import contextlib
import resource
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.records import write_record
from bench.serving import RawClient, RunModel, binary_request, grpc_request, resident_mb
from tests.serve.live.malformed_grpc import SERVICE
from vlcompress.bench.served import Served, served

FILES, HELD, SECONDS = 1024, 1100, 20.0
RELOADS, POLL_S, WORKERS = 12, 0.2, 4
OPTIONS = ["--threads", "1", "--sessions", "1", "--no-page", "--log-level", "error", "--poll", str(POLL_S)]
BEGUN = {
    "http": b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nX-a: ",
    "grpc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\xff\xff\x01\x04",
}
"""What the held connections send: headers that never end."""


@contextlib.contextmanager
def open_files(limit: int) -> Iterator[None]:
    """Let processes that are started in the block open so many files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def slowloris(model: RunModel) -> dict[str, Any]:
    """Hold connections open on both protocols, and ask on others."""
    with (
        open_files(FILES),
        served({"model": model.folder}, OPTIONS, over_grpc=True) as server,
        contextlib.ExitStack() as held,
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * HELD, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for protocol, url in (("http", server.url), ("grpc", server.grpc)):
            for _ in range(HELD):
                host, _, port = url.partition(":")
                connection = held.enter_context(socket.create_connection((host, int(port)), timeout=10))
                with contextlib.suppress(OSError):
                    connection.sendall(BEGUN[protocol])
        found = asyncio.run(_ask_for(model, server, SECONDS))
    return {"files": FILES, "held": HELD, "seconds": SECONDS, **found}


def reloads(model: RunModel) -> dict[str, Any]:
    """Replace the model under load."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "model"
        shutil.copytree(model.folder, root / "1")
        with served({"model": root}, OPTIONS, over_grpc=True) as server:
            before = resident_mb(server.pid)
            found = asyncio.run(_ask_for(model, server, None, lambda: _replace(model, root)))
            grown = round(resident_mb(server.pid) - before, 1)
    return {"reloads": RELOADS, "grown_mb": grown, **found}


def _replace(model: RunModel, root: Path) -> None:
    """Bring new versions in pieces, the manifest first, and take old ones away."""
    for number in range(2, RELOADS + 2):
        version = root / str(number)
        version.mkdir()
        for file in sorted(model.folder.rglob("*"), key=lambda path: path.name != "manifest.json"):
            if file.is_file():
                (version / file.relative_to(model.folder)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, version / file.relative_to(model.folder))
                time.sleep(POLL_S / 2)
        time.sleep(4 * POLL_S)
        shutil.rmtree(root / str(number - 1))


async def _ask_for(
    model: RunModel, server: Served, seconds: float | None, meanwhile: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Ask on both protocols for so long, or until `meanwhile` has ended; answers are compared with the file's."""
    outcomes: dict[str, Counter[str]] = {"http": Counter(), "grpc": Counter(), "health": Counter()}
    versions: Counter[str] = Counter()
    longest = 0.0
    doing = asyncio.create_task(asyncio.to_thread(meanwhile) if seconds is None else asyncio.sleep(seconds))
    raw, request = RawClient(server.url), binary_request(model, "model", 1, 1)
    message, expected = grpc_request(model, "model", 1, 1), model.expected(1)
    health = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"

    async def http() -> None:
        outcomes["http"][await raw.ask(request)] += 1
        outcomes["health"][await raw.ask(health)] += 1

    async def call() -> None:
        async with grpc.aio.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                answer = await channel.unary_unary(f"{SERVICE}/ModelInfer", response_deserializer=_response)(
                    message, timeout=10
                )
            except grpc.aio.AioRpcError as error:
                outcomes["grpc"][error.code().name] += 1
                return
        scores = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(expected.shape)
        outcomes["grpc"]["right" if np.allclose(scores, expected, rtol=1e-4, atol=1e-5) else "wrong"] += 1
        versions[answer.model_version] += 1

    async def work(one: Callable[[], Any]) -> None:
        nonlocal longest
        while not doing.done():
            start = time.perf_counter()
            await one()
            longest = max(longest, time.perf_counter() - start)

    await asyncio.gather(*(work(one) for one in (http, call) for _ in range(WORKERS)))
    await doing
    await raw.close()
    return {"outcomes": outcomes, "versions": versions, "longest_ms": round(1000 * longest, 1)}


def _response(raw: bytes) -> Any:
    from vlcompress.serve.messages import message_class

    return message_class("inference", "ModelInferResponse").FromString(raw)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = RunModel(arguments.run)
    found = {"slowloris": slowloris(model), "reloads": reloads(model)}
    write_record("python -m bench.serving_limits", found, arguments.out)


if __name__ == "__main__":
    main()

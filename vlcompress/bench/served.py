"""A server in a process of its own, for as long as something is measured on it."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vlcompress.errors import VlcompressError


@dataclass(frozen=True)
class Served:
    """A running server: where it listens ("host:port"), its process, and where it listens for gRPC, if it does."""

    url: str
    pid: int
    grpc: str = ""


@contextlib.contextmanager
def served(
    models: Mapping[str, Path],
    options: Sequence[str] = (),
    *,
    over_grpc: bool = False,
    start_seconds: float = 120.0,
    stop_seconds: float = 0.0,
) -> Iterator[Served]:
    """Run ``vlcompress serve`` on the loopback until the block ends.

    Args:
        models: folders by name.
        options: further options of the command.
        over_grpc: listen for gRPC as well.
        start_seconds: how long to wait for it to be ready.
        stop_seconds: how long it may take to end by itself, after SIGTERM, before it is killed; 0 kills it at once.

    Raises:
        VlcompressError: it ended, or was not ready in time; its last line of output is quoted.
    """
    port, grpc_port = free_port(), free_port() if over_grpc else None
    named = [f"{name}={path}" for name, path in models.items()]
    code = "from vlcompress.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", *named, "--port", str(port), *options]
    command += [] if grpc_port is None else ["--grpc-port", str(grpc_port)]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as process,
    ):
        try:
            wait_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log, start_seconds)
            yield Served(f"127.0.0.1:{port}", process.pid, f"127.0.0.1:{grpc_port}" if grpc_port else "")
        finally:
            _end(process, stop_seconds)


def wait_ready(process: "subprocess.Popen[bytes]", url: str, log: IO[bytes], seconds: float = 120.0) -> None:
    """Wait until `url` answers 200.

    Args:
        process: the server.
        url: its readiness.
        log: its output.
        seconds: how long.

    Raises:
        VlcompressError: see `served`.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no output"]
            raise VlcompressError(f"the server ended at once ({lines[-1]}): run `vlcompress serve` to see why")
        if _answers(url):
            return
        time.sleep(0.02)
    raise VlcompressError(f"the server was not ready within {seconds:g} s: run `vlcompress serve` to see why")


def free_port() -> int:
    """Find a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _end(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    if seconds:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False

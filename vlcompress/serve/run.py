"""Running the app: one process, one listener, and an orderly end."""

import asyncio
import signal
import socket
from dataclasses import asdict
from types import FrameType
from typing import Any

import uvicorn

from vlcompress.errors import VlcompressError
from vlcompress.serve.app import create_app
from vlcompress.serve.logs import json_logs
from vlcompress.serve.metrics import INFO_LABELS
from vlcompress.serve.server import Server
from vlcompress.serve.settings import Settings
from vlcompress.serve.start import Announce, notes, summary

BACKLOG = 2048
"""Connections that may wait to be accepted, as of uvicorn."""


def run(settings: Settings, announce: Announce = lambda document, text: None) -> None:
    """Serve until SIGTERM or SIGINT; then stop being ready, drain, and stop.

    Args:
        settings: what to serve and how.
        announce: told what is served, as a document and as text, once it is loaded.

    Raises:
        VlcompressError: a model that cannot be served, or an address that cannot be listened on.
    """
    with json_logs(settings.log_level), bound(settings) as address:
        app = create_app(settings)
        server: Server = app.state.server
        server.load()
        listen(address, settings)
        document = described(server, address.getsockname()[1])
        announce(document, summary(document))
        DrainingServer(config(app, settings), server).run(sockets=[address])


def bound(settings: Settings) -> socket.socket:
    """Take the address before anything is loaded; nobody can connect until the server listens.

    Raises:
        VlcompressError: the port is taken, not allowed, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise _not_free(settings, error) from error
    return found


def listen(address: socket.socket, settings: Settings) -> None:
    """Open the address before anyone is told of it: of servers that started together, one gets it.

    Raises:
        VlcompressError: another server was faster.
    """
    try:
        address.listen(BACKLOG)
    except OSError as error:
        raise _not_free(settings, error) from error


def _not_free(settings: Settings, error: OSError) -> VlcompressError:
    return VlcompressError(
        f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): give another --host or --port"
    )


def described(server: Server, port: int) -> dict[str, Any]:
    """Say what is served and where, as JSON."""
    settings = server.settings
    rows = [
        {
            **dict(zip(INFO_LABELS, model.info(), strict=True)),
            "threads": model.parallel.threads,
            "sessions": model.parallel.sessions,
            "measured": [asdict(row) for row in model.parallel.measured],
        }
        for model in server.repository.loaded()
    ]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {"url": f"http://{host}:{port}", "models": rows, "notes": notes(settings)}


def config(app: object, settings: Settings) -> uvicorn.Config:
    """Configure uvicorn: no log of its own for requests, no header that tells what serves."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        timeout_keep_alive=75,
        lifespan="on",
    )


class DrainingServer(uvicorn.Server):
    """Uvicorn, which stops listening at the first signal, taught to go on for the drain.

    Load balancers need time to see that the server is not ready: until then they send requests, which are answered.
    A second signal ends the drain at once.
    """

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server
        self._drained: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain, or end it."""
        if self._server.draining:
            self.force_exit = sig == signal.SIGINT and self.should_exit
            self.should_exit = True
        self._server.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: see whether it is time to stop."""
        if self._server.draining and self._drained is None:
            self._drained = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        await asyncio.sleep(self._server.settings.drain_seconds)
        self.should_exit = True

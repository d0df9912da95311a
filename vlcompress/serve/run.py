"""Running the app: one process, one listener, and an orderly end."""

import asyncio
import signal
import socket
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any

import uvicorn

from vlcompress.errors import VlcompressError
from vlcompress.serve.app import create_app
from vlcompress.serve.connections import KEEP_SECONDS, Connection, most_connections
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
        announce: told what is served, as a document and as text, once everyone can connect.

    Raises:
        VlcompressError: a model that cannot be served, or an address that cannot be listened on.
    """
    with json_logs(settings.log_level), ExitStack() as stack:
        address, grpc_address = stack.enter_context(bound(settings)), None
        if settings.grpc_port is not None:  # a taken port and a missing package are told now
            import_module("vlcompress.serve.routes_grpc")
            grpc_address = stack.enter_context(bound(settings, settings.grpc_port))
        app = create_app(settings)
        server: Server = app.state.server
        server.load()
        for one in [address] if grpc_address is None else [address, grpc_address]:
            listen(one, settings)
        DrainingServer(config(app, settings), server, announce, grpc_address).run(sockets=[address])


def bound(settings: Settings, port: int | None = None) -> socket.socket:
    """Take the address before anything is loaded; nobody can connect until the server listens.

    Args:
        settings: they say where.
        port: another one than theirs.

    Raises:
        VlcompressError: the port is taken, not allowed, or the address is not this machine's.
    """
    port = settings.port if port is None else port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise _not_free(settings, port, error) from error
    return found


def listen(address: socket.socket, settings: Settings) -> None:
    """Open the address before anyone is told of it: of servers that started together, one gets it.

    Raises:
        VlcompressError: another server was faster.
    """
    try:
        address.listen(BACKLOG)
    except OSError as error:
        raise _not_free(settings, address.getsockname()[1], error) from error


def _not_free(settings: Settings, port: int, error: OSError) -> VlcompressError:
    option = "--grpc-port" if port == settings.grpc_port else "--port"
    return VlcompressError(
        f"cannot listen on {settings.host}:{port} ({error.strerror}): give another --host or {option}"
    )


def described(server: Server, port: int, grpc_port: int | None = None) -> dict[str, Any]:
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
    grpc = {} if grpc_port is None else {"grpc": f"{host}:{grpc_port}"}
    return {"url": f"http://{host}:{port}", **grpc, "models": rows, "notes": notes(settings)}


def config(app: object, settings: Settings) -> uvicorn.Config:
    """Configure uvicorn: no log of its own for requests, no header that tells what serves."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        timeout_keep_alive=round(KEEP_SECONDS),
        lifespan="on",
    )


class DrainingServer(uvicorn.Server):
    """Uvicorn, which stops listening at the first signal, taught to go on for the drain.

    Load balancers need time to see that the server is not ready: until then they send requests, which are answered.
    A second signal ends the drain at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server: Server,
        announce: Announce = lambda document, text: None,
        grpc_address: socket.socket | None = None,
    ) -> None:
        """Make it.

        Args:
            config: of uvicorn.
            server: what is served.
            announce: see `run`.
            grpc_address: where to listen for gRPC, if the settings ask for it; None takes what they say.
        """
        super().__init__(config)
        self._server, self._announce, self._grpc_address = server, announce, grpc_address
        self._drained: asyncio.Task[None] | None = None
        self.grpc_port: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, for gRPC too where it was asked for, and only then tell anyone."""
        over_grpc = self._server.settings.grpc_port is not None
        listening = [await self._listen_for_grpc(self._server.settings)] if over_grpc else []
        await super().startup(sockets)
        self.servers += listening  # uvicorn closes them, asks their connections to end too, and waits for these
        if self.started and sockets:
            document = described(self._server, sockets[0].getsockname()[1], self.grpc_port)
            self._announce(document, summary(document))

    async def _listen_for_grpc(self, settings: Settings) -> asyncio.Server:
        from vlcompress.serve.http2 import Http2Connection
        from vlcompress.serve.routes_grpc import answering

        address = self._grpc_address or bound(settings, settings.grpc_port)
        self.grpc_port = address.getsockname()[1]
        protocol = partial(Http2Connection, answering(self._server), self.server_state, most_connections())
        return await asyncio.get_running_loop().create_server(protocol, sock=address, backlog=BACKLOG)

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

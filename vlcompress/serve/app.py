"""The app: everything that the server answers, built from settings alone."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vlcompress.serve import routes_v1, routes_v2
from vlcompress.serve.metrics import CONTENT_TYPE
from vlcompress.serve.middleware import Requests
from vlcompress.serve.openapi import openapi_document
from vlcompress.serve.page import page
from vlcompress.serve.record import record_of
from vlcompress.serve.server import Server
from vlcompress.serve.settings import Settings

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> Starlette:
    """Build the server's app; it reads nothing but the settings and the models on disk.

    Args:
        settings: what to serve and how.

    Returns:
        An ASGI app. Models are loaded and warmed up when its lifespan starts (or by ``app.state.server.load()``
        before that); it is not ready earlier.

    Raises:
        VlcompressError: tracing asked for and not installed.
    """
    server = Server(settings)
    app = Starlette(
        routes=_routes(settings),
        middleware=[Middleware(Requests, server=server)],
        exception_handlers={HTTPException: _http_error},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.server = server
    return app


def _routes(settings: Settings) -> list[Route]:
    """List what is answered where; routes are tried in this order, so first comes what a server is asked all day."""
    names = [model.name for model in settings.models]
    document = openapi_document(names, authenticated=settings.token is not None, page=settings.page)

    async def openapi(request: Request) -> Response:
        return JSONResponse(document)

    prefixes = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        *(Route(f"{prefix}/infer", routes_v2.infer, methods=["POST"]) for prefix in prefixes),
        *(Route(path, routes_v2.server_metadata) for path in ("/v2", "/v2/")),
        Route("/v2/health/live", routes_v2.live),
        Route("/v2/health/ready", routes_v2.ready),
        Route("/v2/models/stats", routes_v2.model_stats),
        *(Route(prefix, routes_v2.model_metadata) for prefix in prefixes),
        *(Route(f"{prefix}/ready", routes_v2.model_ready) for prefix in prefixes),
        *(Route(f"{prefix}/config", routes_v2.model_config) for prefix in prefixes),
        *(Route(f"{prefix}/stats", routes_v2.model_stats) for prefix in prefixes),
        Route("/v2/repository/index", routes_v2.repository_index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", routes_v2.no_control, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", routes_v2.no_control, methods=["POST"]),
        Route("/metrics", _metrics),
        Route("/openapi.json", openapi),
        Route("/v1", routes_v1.overview),
        Route("/v1/pictures/{name}", routes_v1.picture),
        Route("/v1/{task}", routes_v1.ask, methods=["POST"]),
        *([Route("/", page)] if settings.page else []),
    ]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Load the models, then watch the disk for new versions until the server ends."""
    server: Server = app.state.server
    await asyncio.to_thread(server.load)
    watcher = asyncio.create_task(_watch(server)) if server.settings.poll_seconds else None
    try:
        yield
    finally:
        if watcher is not None:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        if server.tracer is not None:
            server.tracer.close()


async def _watch(server: Server) -> None:
    while True:
        await asyncio.sleep(server.settings.poll_seconds)
        try:
            await server.repository.refresh()
        except Exception:
            logger.exception("looking for new versions failed; it is tried again")


async def _metrics(request: Request) -> Response:
    server: Server = request.app.state.server
    return Response(server.metrics.text(), media_type=CONTENT_TYPE)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer unknown paths and methods in the protocol's form."""
    assert isinstance(error, HTTPException)  # what it is registered for
    record_of(request.scope).reason = "not_found" if error.status_code == 404 else "invalid"
    text = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse({"error": text}, error.status_code, headers=error.headers)

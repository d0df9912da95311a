"""The app: everything that the server answers, built from settings alone."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import vlcompress
from vlcompress.serve import routes_v1, routes_v2
from vlcompress.serve.metrics import CONTENT_TYPE
from vlcompress.serve.middleware import Requests
from vlcompress.serve.openapi import openapi_document
from vlcompress.serve.page import page
from vlcompress.serve.record import record_of
from vlcompress.serve.server import Server
from vlcompress.serve.settings import Settings

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
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
    app = FastAPI(
        title="vlcompress",
        version=vlcompress.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.server = server
    names = [model.name for model in settings.models]
    document = openapi_document(names, authenticated=settings.token is not None, page=settings.page)
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.add_middleware(Requests, server=server)
    app.add_exception_handler(HTTPException, _http_error)
    _add_routes(app, settings)
    return app


def _add_routes(app: FastAPI, settings: Settings) -> None:
    prefixes = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    for prefix in prefixes:  # first: routes are tried in this order, and these are what a server is asked all day
        app.add_route(f"{prefix}/infer", routes_v2.infer, ["POST"])
    for path in ("/v2", "/v2/"):
        app.add_route(path, routes_v2.server_metadata, ["GET"])
    app.add_route("/v2/health/live", routes_v2.live, ["GET"])
    app.add_route("/v2/health/ready", routes_v2.ready, ["GET"])
    app.add_route("/v2/models/stats", routes_v2.model_stats, ["GET"])
    for prefix in prefixes:
        app.add_route(prefix, routes_v2.model_metadata, ["GET"])
        app.add_route(f"{prefix}/ready", routes_v2.model_ready, ["GET"])
        app.add_route(f"{prefix}/config", routes_v2.model_config, ["GET"])
        app.add_route(f"{prefix}/stats", routes_v2.model_stats, ["GET"])
    app.add_route("/v2/repository/index", routes_v2.repository_index, ["POST"])
    for action in ("load", "unload"):
        app.add_route(f"/v2/repository/models/{{model}}/{action}", routes_v2.no_control, ["POST"])
    app.add_route("/metrics", _metrics, ["GET"])
    app.add_route("/v1", routes_v1.overview, ["GET"])
    app.add_route("/v1/pictures/{name}", routes_v1.picture, ["GET"])
    app.add_route("/v1/{task}", routes_v1.ask, ["POST"])
    if settings.page:
        app.add_route("/", page, ["GET"])


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
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

"""The app: everything that the server answers, built from settings alone."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vlcompress.serve import routes_v1, routes_v2
from vlcompress.serve.metrics import CONTENT_TYPE
from vlcompress.serve.middleware import Requests
from vlcompress.serve.openapi import BODY_ERRORS, Endpoint, openapi_document
from vlcompress.serve.page import page as interactive_page
from vlcompress.serve.record import record_of
from vlcompress.serve.routes_v1 import TASKS
from vlcompress.serve.schemas import (
    IndexRequest,
    IndexRow,
    InferRequest,
    InferResponse,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    Overview,
    Ready,
    ServerMetadata,
    Statistics,
)
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
    found = endpoints(page=settings.page)
    app = Starlette(
        routes=[*(endpoint.route() for endpoint in found), Route("/openapi.json", _openapi)],
        middleware=[*_cors(settings), Middleware(Requests, server=server)],
        exception_handlers={HTTPException: _http_error},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.server = server
    names = [model.name for model in settings.models]
    app.state.document = openapi_document(found, names, list(TASKS), authenticated=settings.token is not None)
    app.state.document |= {"servers": [{"url": settings.prefix}]} if settings.prefix else {}
    return app


def _cors(settings: Settings) -> list[Middleware]:
    """Let scripts of other origins ask; a browser's question whether they may needs no token."""
    shown = ["X-Request-Id", "Retry-After", routes_v2.JSON_LENGTH]
    origins = list(settings.cors)
    found = Middleware(
        CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=shown
    )
    return [found] if origins else []


def endpoints(*, page: bool) -> list[Endpoint]:
    """List what is answered where; paths are tried in this order, so first comes what a server is asked all day.

    Args:
        page: whether the interactive page is served.
    """
    return [
        *(_infer(prefix) for prefix in _MODEL),
        *_server_endpoints(),
        *(endpoint for prefix in _MODEL for endpoint in _model_endpoints(prefix)),
        *_task_endpoints(),
        *([Endpoint("/", interactive_page, "The interactive page.", "text/html")] if page else []),
    ]


_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


def _infer(prefix: str) -> Endpoint:
    return Endpoint(
        f"{prefix}/infer",
        routes_v2.infer,
        "Run the model.",
        answer=(InferResponse,),
        request=(InferRequest,),
        errors=(*BODY_ERRORS, 404, 500),
        raw=True,
        method="POST",
    )


def _server_endpoints() -> list[Endpoint]:
    metadata = "Name, version and extensions of the server."
    return [
        Endpoint("/v2", routes_v2.server_metadata, metadata, (ServerMetadata,)),
        Endpoint("/v2/", routes_v2.server_metadata, metadata, (ServerMetadata,)),
        Endpoint("/v2/health/live", routes_v2.live, "Whether the process is alive.", (Live,)),
        Endpoint("/v2/health/ready", routes_v2.ready, "Whether requests are welcome.", (Ready,), also=(503,)),
        Endpoint("/v2/models/stats", routes_v2.model_stats, "Statistics of every model.", (Statistics,), errors=(503,)),
        Endpoint(
            "/v2/repository/index",
            routes_v2.repository_index,
            "Every version on disk and its state.",
            answer=(list[IndexRow],),
            request=(IndexRequest,),
            errors=BODY_ERRORS,
            optional=True,
            method="POST",
        ),
        Endpoint("/v2/repository/models/{model}/load", routes_v2.no_control, method="POST"),
        Endpoint("/v2/repository/models/{model}/unload", routes_v2.no_control, method="POST"),
        Endpoint("/metrics", _metrics, "Metrics in Prometheus's text form.", "text/plain"),
    ]


def _model_endpoints(prefix: str) -> list[Endpoint]:
    errors = (404, 503)
    ready, config = "Whether the model can be asked.", "Configuration, in Triton's words."
    return [
        Endpoint(prefix, routes_v2.model_metadata, "Inputs, outputs and versions.", (ModelMetadata,), errors=errors),
        Endpoint(f"{prefix}/ready", routes_v2.model_ready, ready, (ModelReady,), errors=errors, also=(503,)),
        Endpoint(f"{prefix}/config", routes_v2.model_config, config, (ModelConfig,), errors=errors),
        Endpoint(f"{prefix}/stats", routes_v2.model_stats, "Statistics.", (Statistics,), errors=errors),
    ]


def _task_endpoints() -> list[Endpoint]:
    overview = "Tasks, the models that do them, and built-in pictures."
    return [
        Endpoint("/v1", routes_v1.overview, overview, (Overview,), errors=(503,)),
        Endpoint("/v1/pictures/{name}", routes_v1.picture, "A built-in picture.", "image/jpeg", errors=(404,)),
        Endpoint(
            "/v1/{task}",
            routes_v1.ask,
            "Ask about a picture or about region features.",
            answer=tuple(dict.fromkeys(task.response for task in TASKS.values())),
            request=tuple(dict.fromkeys(task.request for task in TASKS.values())),
            errors=(*BODY_ERRORS, 404, 500),
            method="POST",
        ),
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


async def _openapi(request: Request) -> Response:
    return JSONResponse(request.app.state.document)


async def _metrics(request: Request) -> Response:
    server: Server = request.app.state.server
    return Response(server.metrics.text(), media_type=CONTENT_TYPE)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer unknown paths and methods in the protocol's form."""
    assert isinstance(error, HTTPException)  # what it is registered for
    record_of(request.scope).reason = "not_found" if error.status_code == 404 else "invalid"
    text = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse({"error": text}, error.status_code, headers=error.headers)

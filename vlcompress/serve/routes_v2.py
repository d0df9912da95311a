"""Open Inference Protocol v2: health, metadata, infer, and Triton's configuration, statistics and index extensions."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import vlcompress
from vlcompress.serve import infer as core
from vlcompress.serve.batcher import Answer
from vlcompress.serve.body import gone, read_body
from vlcompress.serve.decode import decode_request, parse_object
from vlcompress.serve.encode import ResponseBody, encode_response
from vlcompress.serve.infer import metadata_of, model_of, note
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.record import record_of
from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.schemas import (
    IndexRequest,
    Live,
    ModelConfig,
    ModelReady,
    Ready,
    ServerMetadata,
    Statistics,
    TensorConfig,
    checked,
)
from vlcompress.serve.server import Server
from vlcompress.serve.tensors import Arrays, TensorSpec

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics"]
JSON_LENGTH = "Inference-Header-Content-Length"
_WORTH_COMPRESSING = 4096
_SHORT_WAIT_S = 0.01


def server_of(request: Request) -> Server:
    """Find the server that a request came to."""
    server: Server = request.app.state.server
    return server


async def server_metadata(request: Request) -> Response:
    """``GET /v2``."""
    return JSONResponse(ServerMetadata(name="vlcompress", version=vlcompress.__version__, extensions=EXTENSIONS))


async def live(request: Request) -> Response:
    """``GET /v2/health/live``."""
    return JSONResponse(Live(live=True))


async def ready(request: Request) -> Response:
    """``GET /v2/health/ready``: 503 while loading and while draining."""
    is_ready = server_of(request).ready
    return JSONResponse(Ready(ready=is_ready), 200 if is_ready else 503)


async def model_ready(request: Request) -> Response:
    """``GET /v2/models/{model}/ready``."""
    model = _model(request)
    is_ready = server_of(request).ready
    return JSONResponse(ModelReady(name=model.name, ready=is_ready), 200 if is_ready else 503)


async def model_metadata(request: Request) -> Response:
    """``GET /v2/models/{model}``."""
    return JSONResponse(metadata_of(server_of(request), _model(request)))


async def model_config(request: Request) -> Response:
    """``GET /v2/models/{model}/config``, in the words of Triton's model configuration."""
    model, settings = _model(request), server_of(request).settings
    batched = model.limits.max_batch if model.engine.inputs[0].batched else 0
    kind = "KIND_CPU" if model.engine.provider in ("cpu", "CPUExecutionProvider") else "KIND_GPU"
    return JSONResponse(
        ModelConfig(
            name=model.name,
            platform=model.engine.platform,
            backend=model.engine.backend,
            version_policy={"all": {}},
            max_batch_size=batched,
            input=[_config(spec, bool(batched)) for spec in model.engine.inputs],
            output=[_config(spec, bool(batched)) for spec in model.engine.outputs],
            instance_group=[{"name": model.name, "count": model.parallel.sessions, "kind": kind}],
            dynamic_batching={
                "max_queue_delay_microseconds": round(settings.batch_window_ms * 1000),
                "default_queue_policy": {
                    "timeout_action": "REJECT",
                    "default_timeout_microseconds": round(settings.deadline_ms * 1000),
                    "allow_timeout_override": True,
                    "max_queue_size": settings.queue_rows,
                },
            },
        )
    )


async def model_stats(request: Request) -> Response:
    """``GET /v2/models/stats`` and ``GET /v2/models/{model}/stats``."""
    named = "model" in request.path_params
    models = [_model(request)] if named else server_of(request).repository.loaded()
    return JSONResponse(Statistics(model_stats=[model.stats.json(model.name, model.version) for model in models]))


async def repository_index(request: Request) -> Response:
    """``POST /v2/repository/index``."""
    server = server_of(request)
    with server.budget.hold() as held:
        body = await read_body(request, server.body_limits, held)
    asked = checked(IndexRequest, parse_object(body) if body.strip() else {})
    return JSONResponse([row for row in server.repository.index() if row["state"] == "READY" or not asked.ready])


async def no_control(request: Request) -> Response:
    """``POST /v2/repository/models/{model}/load`` and ``unload``: not offered."""
    raise invalid(
        "models are not loaded or unloaded over HTTP: put a new version on the server's disk, it is found and loaded"
    )


async def infer(request: Request) -> Response:
    """``POST /v2/models/{model}/infer``."""
    server, record = server_of(request), record_of(request.scope)
    start = time.perf_counter()
    note(record, _model(request))
    with server.budget.hold() as held:
        body = await read_body(request, server.body_limits, held)
        model = _model(request)  # again: while the body came in, the version may have been replaced
        note(record, model)
        with model.stats.counted(start):
            decode = partial(decode_request, body, _json_length(request))
            found = await core.infer(server, record, model, decode, partial(_until_gone, request))
            encoded = encode_response(model.name, model.version, found.id, found.outputs)
        return _response(encoded, request.headers.get("accept-encoding", ""))


async def run_model(request: Request, model: LoadedModel, inputs: Arrays, datatypes: Mapping[str, str]) -> Answer:
    """Check tensors, queue them, and wait for the answer for as long as the client does.

    Args:
        request: of which the body has been read.
        model: to be run.
        inputs: its inputs.
        datatypes: what the request says that they are.

    Raises:
        Refusal: 400, 499, 500 or 503.
    """
    wait = partial(_until_gone, request)
    return await core.run_model(server_of(request), record_of(request.scope), model, inputs, datatypes, wait)


async def _until_gone(request: Request, work: "asyncio.Future[Answer]") -> Answer:
    """Wait for the answer; cancel the work when the client closes the connection.

    The connection is watched only once the answer is not there at once: to watch costs more than a short wait.
    """
    watchers: list[asyncio.Task[None]] = []

    async def watch() -> None:
        await request.receive()  # the body has been read, so this is the end of the connection
        work.cancel()

    later = asyncio.get_running_loop().call_later(_SHORT_WAIT_S, lambda: watchers.append(asyncio.create_task(watch())))
    try:
        return await work
    except asyncio.CancelledError:
        if watchers and watchers[0].done():
            raise gone() from None
        raise
    finally:
        later.cancel()
        for watcher in watchers:
            watcher.cancel()


def _model(request: Request) -> LoadedModel:
    return model_of(server_of(request), request.path_params["model"], request.path_params.get("version"))


def _json_length(request: Request) -> int | None:
    value = request.headers.get(JSON_LENGTH)
    if value is None:
        return None
    if not (value.isdecimal() and value.isascii() and len(value) < 16):
        raise invalid(f"{JSON_LENGTH} is '{shown(value)}': give the number of bytes of JSON")
    return int(value)


def _response(encoded: ResponseBody, accepted: str) -> Response:
    headers: dict[str, str] = {}
    body, kind = encoded.body, "application/json"
    if encoded.json_length is not None:
        headers[JSON_LENGTH], kind = str(encoded.json_length), "application/octet-stream"
    if len(body) > _WORTH_COMPRESSING and accepted:
        body, headers = _compressed(body, headers, accepted)
    return Response(body, headers=headers, media_type=kind)


def _compressed(body: bytes, headers: dict[str, str], accepted: str) -> tuple[bytes, dict[str, str]]:
    parts = [part.replace(" ", "").lower().partition(";") for part in accepted.split(",")]
    names = [name for name, _, weight in parts if weight.rstrip("0.") != "q="]  # "q=0" means: not this one
    if "gzip" in names:
        return gzip.compress(body, 1, mtime=0), {**headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    if "deflate" in names:
        return zlib.compress(body, 1), {**headers, "Content-Encoding": "deflate", "Vary": "Accept-Encoding"}
    return body, headers


def _config(spec: TensorSpec, batched: bool) -> TensorConfig:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return TensorConfig(name=spec.name, data_type=f"TYPE_{kind}", dims=spec.public_shape[1 if batched else 0 :])

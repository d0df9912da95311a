"""Open Inference Protocol v2 over gRPC: the same models, queue, limits, token and refusals as over HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

import vlcompress
from vlcompress.errors import VlcompressError
from vlcompress.serve.auth import GRPC, GRPC_HEALTH, check_token
from vlcompress.serve.batcher import Answer
from vlcompress.serve.body import gone
from vlcompress.serve.connections import HEAD_SECONDS, most_connections
from vlcompress.serve.decode_grpc import decode_call
from vlcompress.serve.encode import raw_bytes
from vlcompress.serve.exchange import exchange, refused
from vlcompress.serve.infer import infer, metadata_of, model_of, note
from vlcompress.serve.messages import Message, message_class
from vlcompress.serve.record import Record
from vlcompress.serve.refusal import Refusal, invalid, shown
from vlcompress.serve.schemas import Json
from vlcompress.serve.server import Server

NOT_OFFERED = (
    "ModelStreamInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad",
    "RepositoryModelUnload", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
)  # fmt: skip
"""What Triton's clients can call besides."""

STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE"}
"""Statuses of gRPC for those of HTTP; any other one is INTERNAL."""

_SERVING, _NOT_SERVING = 1, 2


@dataclass(frozen=True)
class Call:
    """One call: the request, and how long its client waits (None: for ever)."""

    server: Server
    record: Record
    request: Message
    left_s: float | None


async def start(server: Server, host: str, port: int) -> tuple[Any, int]:
    """Listen for calls on the running event loop.

    Args:
        server: answers them.
        host, port: where to listen; port 0 takes a free one.

    Returns:
        The `grpc.aio.Server`, and its port.

    Raises:
        VlcompressError: the address cannot be listened on.
    """
    options = {
        "grpc.max_receive_message_length": server.settings.max_body_bytes,
        "grpc.max_send_message_length": -1,
        "grpc.max_allowed_incoming_connections": most_connections(2),  # the other half is HTTP's
        "grpc.server_handshake_timeout_ms": round(HEAD_SECONDS * 1000),
        "grpc.max_connection_idle_ms": round(HEAD_SECONDS * 1000),  # without a whole call; clients connect again
        "grpc.max_connection_age_grace_ms": 1000 * round(server.settings.stop_seconds),
        "grpc.so_reuseport": 0,  # else a second server would take half of the first one's clients
    }
    listening = grpc.aio.server(options=list(options.items()))
    for service, methods in _METHODS.items():
        handlers = {name: _handler(server, f"/{service}/{name}", method) for name, method in methods.items()}
        listening.add_registered_method_handlers(service, handlers)
    try:
        found = listening.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise VlcompressError(
            f"cannot listen on {host}:{port} (Address already in use): give another --host or --grpc-port"
        ) from error
    await listening.start()
    return listening, found


async def _live(call: Call) -> Json:
    return {"live": True}


async def _ready(call: Call) -> Json:
    return {"ready": call.server.ready}


async def _health(call: Call) -> Json:
    if call.request.service not in ("", GRPC):
        raise Refusal(404, f"unknown service '{shown(call.request.service)}': give '{GRPC}' or none", "not_found")
    return {"status": _SERVING if call.server.ready else _NOT_SERVING}


async def _model_ready(call: Call) -> Json:
    try:
        model_of(call.server, call.request.name, call.request.version)
    except Refusal:
        return {"ready": False}  # as Triton answers: a model that is not there is no failure of this question
    return {"ready": call.server.ready}


async def _server_metadata(call: Call) -> Json:
    return {"name": "vlcompress", "version": vlcompress.__version__, "extensions": ["classification"]}


async def _model_metadata(call: Call) -> Mapping[str, Any]:
    return metadata_of(call.server, model_of(call.server, call.request.name, call.request.version))


async def _model_infer(call: Call) -> Json:
    start = time.perf_counter()
    model = model_of(call.server, call.request.model_name, call.request.model_version)
    note(call.record, model)
    with model.stats.counted(start):
        found = await infer(call.server, call.record, model, partial(decode_call, call.request, call.left_s), _wait)
    return {
        "model_name": model.name,
        "model_version": str(model.version),
        "id": found.id,
        "outputs": [
            {"name": output.name, "datatype": output.datatype, "shape": output.array.shape} for output in found.outputs
        ],
        "raw_output_contents": [raw_bytes(output.array) for output in found.outputs],
    }


async def _not_offered(call: Call) -> Json:
    offered = ", ".join(name for name in _METHODS[GRPC] if name not in NOT_OFFERED)
    raise Refusal(501, f"this method is not offered over gRPC: call {offered}", "not_offered")


@dataclass(frozen=True)
class _Method:
    """A method: the names of its messages, and what answers it with the response's fields."""

    answer: Callable[[Call], Awaitable[Mapping[str, Any]]]
    package: str = "inference"
    name: str = ""

    def message(self, kind: str) -> Any:
        return message_class(self.package, f"{self.name}{kind}")


_ANSWERS = {
    "ServerLive": _live,
    "ServerReady": _ready,
    "ModelReady": _model_ready,
    "ServerMetadata": _server_metadata,
    "ModelMetadata": _model_metadata,
    "ModelInfer": _model_infer,
}
_METHODS: Mapping[str, Mapping[str, _Method]] = {
    GRPC: {
        **{name: _Method(answer, name=name) for name, answer in _ANSWERS.items()},
        **{name: _Method(_not_offered, name="ServerLive") for name in NOT_OFFERED},
    },
    GRPC_HEALTH: {"Check": _Method(_health, "grpc.health.v1", "HealthCheck")},
}


def _handler(server: Server, path: str, method: _Method) -> Any:
    """Make a method's handler; bytes are parsed in it, since gRPC's own parsing calls a broken message INTERNAL."""
    request, response = method.message("Request"), method.message("Response")

    async def answer(raw: bytes, context: Any) -> bytes:
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        with exchange(server, "gRPC", path.rpartition("/")[2], path, headers) as record:
            record.client = _address(context.peer())
            try:
                check_token(path, headers.get("authorization", ""), server.settings.token)
                with server.budget.hold() as held:
                    held.add(len(raw))
                    call = Call(server, record, _parsed(request, raw), context.time_remaining())
                    sent: bytes = response(**await method.answer(call)).SerializeToString()
                record.status = 200
                return sent
            except Exception as error:
                refusal = refused(error, record)
        if refusal.status == 499:
            raise asyncio.CancelledError
        trailing = tuple((name.lower(), value) for name, value in refusal.headers.items())
        await context.abort(grpc.StatusCode[STATUSES.get(refusal.status, "INTERNAL")], str(refusal), trailing)
        raise AssertionError("abort has raised")

    return grpc.unary_unary_rpc_method_handler(answer)


def _address(peer: str) -> str:
    """Take the address from what gRPC calls a client ("ipv4:127.0.0.1:5000")."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _parsed(kind: Any, raw: bytes) -> Message:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise invalid(f"the request is not a {kind.DESCRIPTOR.full_name}: {shown(error, 120)}") from None


async def _wait(work: "asyncio.Future[Answer]") -> Answer:
    """Wait for an answer; gRPC cancels the handler, and the handler its work, when the client gives up."""
    try:
        return await work
    except asyncio.CancelledError:
        raise gone() from None

"""Open Inference Protocol v2 over gRPC: the same models, queue, limits, token and refusals as over HTTP."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError

import vlcompress
from vlcompress.serve.auth import GRPC, GRPC_HEALTH, check_token
from vlcompress.serve.batcher import Answer
from vlcompress.serve.body import BodyLimits, Held, gone, inflated, too_large
from vlcompress.serve.decode_grpc import decode_call
from vlcompress.serve.encode import raw_bytes
from vlcompress.serve.exchange import exchange, refused
from vlcompress.serve.http2 import Answer as Answering
from vlcompress.serve.http2 import Stream, block
from vlcompress.serve.infer import infer, metadata_of, model_of, note
from vlcompress.serve.messages import Message, message_class
from vlcompress.serve.record import Record
from vlcompress.serve.refusal import Refusal, invalid, shown
from vlcompress.serve.schemas import Json
from vlcompress.serve.server import Server

STATUSES = {400: 3, 401: 16, 404: 5, 408: 4, 413: 8, 415: 12, 501: 12, 503: 14}
"""INVALID_ARGUMENT, UNAUTHENTICATED, NOT_FOUND, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED and UNAVAILABLE
for statuses of HTTP; any other one is INTERNAL."""

_INTERNAL = 13
_HEAD = block([(":status", "200"), ("content-type", "application/grpc")])
_GOOD = block([("grpc-status", "0")])
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_LONGEST_SENTENCE = 1000
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_SERVING, _NOT_SERVING = 1, 2


@dataclass(frozen=True)
class Call:
    """One call: the request, and how long its client waits (None: for ever)."""

    server: Server
    record: Record
    request: Message
    left_s: float | None


def answering(server: Server) -> Answering:
    """Make what answers the calls of a listener's connections."""
    return partial(_exchange, server)


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


@dataclass(frozen=True)
class _Method:
    """A method: the names of its messages, and what answers it with the response's fields."""

    answer: Callable[[Call], Awaitable[Mapping[str, Any]]]
    package: str = "inference"
    name: str = ""

    def message(self, kind: str) -> Any:
        """Get the class of its request or response."""
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
    GRPC: {name: _Method(answer, name=name) for name, answer in _ANSWERS.items()},
    GRPC_HEALTH: {"Check": _Method(_health, "grpc.health.v1", "HealthCheck")},
}


async def _exchange(server: Server, stream: Stream) -> None:
    """Answer a call, or refuse it."""
    path = stream.headers.get(":path", "")
    if not stream.headers.get("content-type", "").startswith("application/grpc"):
        await stream.send(block([(":status", "415")]))
        return
    with exchange(server, "gRPC", path.rpartition("/")[2], path, stream.headers) as record:
        record.client = stream.client
        try:
            sent = await _answer(server, record, stream, path)
            record.status = 200
            await stream.send(_HEAD, b"\0" + len(sent).to_bytes(4) + sent, _GOOD)
        except (Exception, asyncio.CancelledError) as error:
            refusal = refused(gone() if isinstance(error, asyncio.CancelledError) else error, record)
            if refusal.status != 499:
                await stream.send(_refusal(refusal))


async def _answer(server: Server, record: Record, stream: Stream, path: str) -> bytes:
    start = time.monotonic()
    waits_s = _seconds(stream.headers.get("grpc-timeout"))
    check_token(path, stream.headers.get("authorization", ""), server.settings.token)
    method = _method(path)
    with server.budget.hold() as held:
        raw = await _message(stream, server, held)
        left_s = None if waits_s is None else waits_s - (time.monotonic() - start)
        call = Call(server, record, _parsed(method.message("Request"), raw), left_s)
        response: bytes = method.message("Response")(**await method.answer(call)).SerializeToString()
        return response


def _method(path: str) -> "_Method":
    """Look a method up before its message has come: a stream's need not come at all."""
    service, _, name = path.removeprefix("/").rpartition("/")
    method = _METHODS.get(service, {}).get(name)
    if method is None:
        offered = ", ".join(_METHODS[GRPC])
        raise Refusal(501, f"this method is not offered over gRPC: call {offered}", "not_offered")
    return method


async def _message(stream: Stream, server: Server, held: Held) -> bytes:
    """Read a call's message, within the limits of HTTP's bodies."""
    limits = server.body_limits
    if not stream.ended:
        try:
            async with asyncio.timeout(limits.seconds):
                while not stream.ended:
                    _check_size(stream, limits, held)
                    await stream.moved()
        except TimeoutError:
            raise Refusal(408, f"the message did not arrive within {limits.seconds:g} s", "slow_client") from None
    _check_size(stream, limits, held)
    size, body = int.from_bytes(stream.body[1:5]), bytes(stream.body[5:])
    if len(stream.body) < 5 or len(body) != size:
        raise invalid(f"one message of {size} bytes is announced, {len(body)} bytes have come")
    if not stream.body[0]:
        return body
    return inflated(body, stream.headers.get("grpc-encoding", "identity"), limits.inflated, held)


def _check_size(stream: Stream, limits: BodyLimits, held: Held) -> None:
    come = len(stream.body)
    held.add(come - held.bytes)
    size = max(come - 5, int.from_bytes(stream.body[1:5]) if come >= 5 else 0)
    if size > limits.sent:
        raise too_large(f"{size} bytes", limits.sent)


def _seconds(timeout: str | None) -> float | None:
    """Read how long a client waits ("500m": milliseconds)."""
    if timeout is None:
        return None
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise invalid(f"grpc-timeout is '{shown(timeout)}': give at most 8 digits and one of {', '.join(_UNITS)}")
    return int(found[1]) * _UNITS[found[2]]


def _refusal(refusal: Refusal) -> bytes:
    """Write the headers of an answer that has no message."""
    status = grpc_status(refusal.status)
    said = quote(str(refusal)[:_LONGEST_SENTENCE], safe=_PRINTABLE)
    more = [(name.lower(), value) for name, value in refusal.headers.items() if name != "Connection"]
    return _HEAD + block([("grpc-status", str(status)), ("grpc-message", said), *more])


def grpc_status(status: int) -> int:
    """Give gRPC's status for one of HTTP's."""
    return STATUSES.get(status, _INTERNAL)


def _parsed(kind: Any, raw: bytes) -> Message:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise invalid(f"the request is not a {kind.DESCRIPTOR.full_name}: {shown(error, 120)}") from None


async def _wait(work: "asyncio.Future[Answer]") -> Answer:
    """Wait for an answer; the call is cancelled, and with it the work, when the client gives up."""
    try:
        return await work
    except asyncio.CancelledError:
        raise gone() from None

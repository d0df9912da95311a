"""Malformed calls over gRPC, drawn from a seed: wrong bytes, messages and metadata, and clients that give up."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from tests.serve.live.malformed import PATIENCE_S, Attempt, Outcome
from tests.serve.live.malformed import send as send_raw
from vlcompress.serve.decode_grpc import CONTENTS
from vlcompress.serve.messages import Message, message_class

SERVICE = "/inference.GRPCInferenceService"
HARMFUL = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "silent")
"""The server's own faults, and clients left without any answer."""


@dataclass(frozen=True)
class Call:
    """One call: what is wrong with it, the method, the message's bytes, the metadata, and the client's patience."""

    kind: str
    raw: bytes
    path: str = f"{SERVICE}/ModelInfer"
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    patience_s: float = PATIENCE_S


def infer_request(model: str, arrays: Any) -> Message:
    """Make a ModelInferRequest with raw tensors of numpy arrays, int64 or float32."""
    request = message_class("inference", "ModelInferRequest")(model_name=model)
    for name, array in arrays.items():
        datatype = {"int64": "INT64", "float32": "FP32"}[str(array.dtype)]
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def calls(model: str, arrays: Any, count: int, seed: int) -> Iterator[Call | Attempt]:
    """Draw malformed calls: `arrays` is a request that the model would answer; the same seed draws the same ones."""
    rng = random.Random(seed)
    kinds = list(MAKERS.items())
    for index in range(count):
        kind, make = kinds[index % len(kinds)]
        yield make(kind, rng, infer_request(model, arrays))


async def send_all(url: str, drawn: Iterable[Call | Attempt], at_once: int = 32) -> list[Outcome]:
    """Send calls to "host:port", `at_once` at a time."""
    gate = asyncio.Semaphore(at_once)
    host, _, port = url.partition(":")
    async with grpc.aio.insecure_channel(url) as channel:

        async def one(call: Call | Attempt) -> Outcome:
            async with gate:
                return await (send_raw(host, int(port), call) if isinstance(call, Attempt) else _send(channel, call))

        return await asyncio.gather(*(one(call) for call in drawn))


async def _send(channel: Any, call: Call) -> Outcome:
    try:
        await channel.unary_unary(call.path)(call.raw, timeout=call.patience_s, metadata=call.metadata)
    except grpc.aio.AioRpcError as error:
        late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and call.patience_s == PATIENCE_S
        return Outcome(call.kind, "silent" if late else error.code().name)
    except ValueError:  # gRPC's client itself refuses some metadata
        return Outcome(call.kind, "not sent")
    return Outcome(call.kind, "OK")


def wrong(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """List what must not happen."""
    return [found for found in outcomes if found.status in HARMFUL]


def _bytes(kind: str, rng: random.Random, request: Message) -> Call:
    raw = request.SerializeToString()
    at = rng.randrange(len(raw))
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 3, 20])):
        changed[rng.randrange(len(raw))] = rng.randrange(256)
    nested = b"\x2a\xff\xff\xff\xff\x0f" + rng.randbytes(20)  # a length of 4 GiB
    return Call(kind, rng.choice([raw[:at], bytes(changed), rng.randbytes(300), raw[at:], raw + raw[:at], nested, b""]))


def _tensor(kind: str, rng: random.Random, request: Message) -> Call:
    tensor = rng.choice(request.inputs)
    field = rng.choice(["name", "datatype", "shape", "add", "drop", "twice", "id", "outputs", "model"])
    junk = rng.choice(["", "x" * 3000, "BF16", "FP16", "INT65", "\u0000", "input_ids", "\U0001f600"])
    if field in ("name", "datatype"):
        setattr(tensor, field, junk)
    elif field == "shape":
        tensor.shape[:] = rng.choice([[], [0], [-1, 5], [2**62, 2**62], [2**63 - 1], [1] * 10_000, [1, 10**6]])
    elif field == "add":
        request.inputs.add(name=junk, datatype="FP32", shape=[1])
    elif field == "drop":
        request.inputs.pop()
    elif field == "twice":
        request.inputs.append(tensor)
    elif field == "outputs":
        request.outputs.add(name=junk).parameters["classification"].int64_param = rng.choice([-1, 2**62, 3])
    else:
        setattr(request, {"id": "id", "model": "model_name"}[field], junk)
    return Call(kind, request.SerializeToString())


def _raw(kind: str, rng: random.Random, request: Message) -> Call:
    """Raw tensors that are too short, too long, too many, or any bits: NaN, ids far outside the vocabulary."""
    at = rng.randrange(len(request.raw_input_contents))
    part = request.raw_input_contents[at]
    request.raw_input_contents[at] = rng.choice([part[:-1], part * 2, b"", rng.randbytes(len(part)), part[8:]])
    if rng.random() < 0.3:
        request.raw_input_contents.append(part)
    return Call(kind, request.SerializeToString())


def _typed(kind: str, rng: random.Random, request: Message) -> Call:
    if rng.random() < 0.7:
        request.ClearField("raw_input_contents")
    for tensor in request.inputs:
        field = rng.choice(list(CONTENTS.values()))
        value: Any = {"bytes_contents": rng.randbytes(5), "bool_contents": True}.get(field, rng.randrange(100))
        if field.startswith("fp"):
            value = rng.choice([float("nan"), float("inf"), 1.5])
        getattr(tensor.contents, field).extend([value] * rng.choice([1, 15, 5000]))
    return Call(kind, request.SerializeToString())


def _parameters(kind: str, rng: random.Random, request: Message) -> Call:
    message = rng.choice([request, *request.inputs])
    name = rng.choice(["timeout", "binary_data_output", "binary_data_size", "shared_memory_region", "sequence_id", "x"])
    field = rng.choice(["bool_param", "int64_param", "string_param", "double_param", "uint64_param", ""])
    values = {"bool_param": True, "string_param": "soon", "double_param": float("nan"), "uint64_param": 2**64 - 1}
    parameter = message.parameters[name]
    if field:
        setattr(parameter, field, values.get(field, rng.choice([-1, 0, 1, 2**63 - 1])))
    return Call(kind, request.SerializeToString())


def _methods(kind: str, rng: random.Random, request: Message) -> Call:
    names = ["ModelStreamInfer", "ModelConfig", "RepositoryModelLoad", "Nothing", "", "ModelReady", "ModelMetadata"]
    raw = rng.choice([request.SerializeToString(), rng.randbytes(50), b""])
    return Call(
        kind,
        raw,
        rng.choice([f"{SERVICE}/{rng.choice(names)}", "/other.Service/Method", "/grpc.health.v1.Health/Watch"]),
    )


def _metadata(kind: str, rng: random.Random, request: Message) -> Call:
    pair: tuple[str, str | bytes] = rng.choice(
        [
            ("authorization", "Bearer " + "x" * 5000), ("traceparent", "00-zz-zz-99"), ("x-request-id", "a b" * 50),
            ("x-bin", rng.randbytes(50)), ("grpc-timeout", "never"), ("x-long", "y" * 20_000),
        ]
    )  # fmt: skip
    return Call(kind, request.SerializeToString(), metadata=(pair,))


def _large(kind: str, rng: random.Random, request: Message) -> Call:
    request.id = "x" * rng.choice([2000, 5 << 20])
    request.raw_input_contents[0] = bytes(rng.choice([10, 5 << 20]))
    return Call(kind, request.SerializeToString())


def _impatient(kind: str, rng: random.Random, request: Message) -> Call:
    """A valid call of a client that gives up at once."""
    return Call(kind, request.SerializeToString(), patience_s=rng.choice([0.0, 0.0005, 0.002]))


def _not_grpc(kind: str, rng: random.Random, request: Message) -> Attempt:
    """Bytes on a connection of its own that are not HTTP/2, or stop being it."""
    start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    parts = [
        rng.randbytes(200), start[: rng.randrange(1, len(start))], start + rng.randbytes(500),
        start + settings + b"\x7f\xff\xff\x01\x04\x00\x00\x00\x01", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ]  # fmt: skip
    return Attempt(kind, (rng.choice(parts),), after=rng.choice(["leave", "half-close"]))


MAKERS: dict[str, Callable[[str, random.Random, Message], Call | Attempt]] = {
    "wrong bytes": _bytes,
    "wrong tensors": _tensor,
    "wrong raw data": _raw,
    "wrong typed data": _typed,
    "wrong parameters": _parameters,
    "other methods": _methods,
    "wrong metadata": _metadata,
    "large": _large,
    "gives up": _impatient,
    "not gRPC": _not_grpc,
}

"""Calls that our server and NVIDIA's are asked alike over gRPC; none is meant to differ.

Answers are compared by status and, of inference, by tensors; sentences are each server's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from tests.serve.live.differential import KSERVE, Arrays, tensor_differences

SERVICE = "/inference.GRPCInferenceService"


@dataclass(frozen=True)
class CallAnswer:
    """What came back: the status, the sentence of a refusal, and the tensors of an inference."""

    status: str
    text: str
    tensors: Mapping[str, Any]


def call_cases(model: str, arrays: Arrays, max_batch: int) -> dict[str, tuple[str, Any]]:
    """List methods and messages; see `differential.cases` for the arguments."""
    named = {"name": model}
    found: dict[str, tuple[str, Any]] = {
        "live": ("ServerLive", service_pb2.ServerLiveRequest()),
        "ready": ("ServerReady", service_pb2.ServerReadyRequest()),
        "server metadata": ("ServerMetadata", service_pb2.ServerMetadataRequest()),
        "model ready": ("ModelReady", service_pb2.ModelReadyRequest(**named)),
        "version ready": ("ModelReady", service_pb2.ModelReadyRequest(**named, version="1")),
        "unknown model ready": ("ModelReady", service_pb2.ModelReadyRequest(name="nope")),
        "model metadata": ("ModelMetadata", service_pb2.ModelMetadataRequest(**named)),
        "unknown model": ("ModelMetadata", service_pb2.ModelMetadataRequest(name="nope")),
        "unknown version": ("ModelMetadata", service_pb2.ModelMetadataRequest(**named, version="9")),
    }
    many = {name: np.repeat(value[:1], max_batch + 1, axis=0) for name, value in arrays.items()}
    messages = {
        "infer": raw_request(model, arrays),
        "infer, typed": typed_request(model, arrays),
        "infer, unknown model": raw_request("nope", arrays),
        "infer, unknown version": _changed(raw_request(model, arrays), lambda m: setattr(m, "model_version", "9")),
        "batch too large": raw_request(model, many),
    }
    for name, change in CHANGES.items():
        messages[name] = _changed(raw_request(model, arrays), change)
    messages["typed and raw"] = _changed(messages["infer, typed"], lambda m: m.raw_input_contents.append(b"1" * 8))
    return found | {name: ("ModelInfer", message) for name, message in messages.items()}


CHANGES: Mapping[str, Callable[[Any], object]] = {
    "id": lambda m: setattr(m, "id", "abc"),
    "a version": lambda m: setattr(m, "model_version", "1"),
    "an ample timeout": lambda m: setattr(m.parameters["timeout"], "int64_param", 2_000_000),
    "an output": lambda m: m.outputs.add(name="logits"),
    "classification": lambda m: setattr(m.outputs.add(name="logits").parameters["classification"], "int64_param", 3),
    "unknown output": lambda m: m.outputs.add(name="nope"),
    "no such type": lambda m: setattr(m.inputs[0], "datatype", "INT65"),
    "another type": lambda m: setattr(m.inputs[0], "datatype", "INT32"),
    "no name": lambda m: setattr(m.inputs[0], "name", ""),
    "negative size": lambda m: m.inputs[0].shape.__setitem__(0, -2),
    "rank too high": lambda m: m.inputs[0].shape.append(1),
    "no inputs": lambda m: (m.ClearField("inputs"), m.ClearField("raw_input_contents")),
    "an input is missing": lambda m: (m.inputs.pop(), m.raw_input_contents.pop()),
    "raw data is missing": lambda m: m.raw_input_contents.pop(),
    "raw data too short": lambda m: m.raw_input_contents.__setitem__(0, m.raw_input_contents[0][:-8]),
    "raw data too long": lambda m: m.raw_input_contents.__setitem__(0, m.raw_input_contents[0] + b"1" * 8),
    "no data": lambda m: m.ClearField("raw_input_contents"),
}


def raw_request(model: str, arrays: Arrays) -> Any:
    """Make a request with raw tensors."""
    request = typed_request(model, arrays)
    for tensor, value in zip(request.inputs, arrays.values(), strict=True):
        tensor.ClearField("contents")
        request.raw_input_contents.append(value.tobytes())
    return request


def typed_request(model: str, arrays: Arrays) -> Any:
    """Make a request with typed tensors."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, value in arrays.items():
        tensor = request.inputs.add(name=name, datatype=KSERVE[str(value.dtype)], shape=value.shape)
        field = tensor.contents.int64_contents if tensor.datatype == "INT64" else tensor.contents.fp32_contents
        field.extend(value.ravel().tolist())
    return request


def call(url: str, method: str, message: Any) -> CallAnswer:
    """Call a method at "host:port"."""
    with grpc.insecure_channel(url) as channel:
        try:
            raw = channel.unary_unary(f"{SERVICE}/{method}")(message.SerializeToString(), timeout=30)
        except grpc.RpcError as error:
            return CallAnswer(error.code().name, error.details() or "", {})
    return CallAnswer(
        "OK", "", _tensors(service_pb2.ModelInferResponse.FromString(raw)) if method == "ModelInfer" else {}
    )


def _tensors(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        values = np.frombuffer(raw, np.float32) if output.datatype == "FP32" else _texts(raw)
        found[output.name] = values.reshape(output.shape)
    return found


def _texts(raw: bytes) -> Any:
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return np.array(found)


def call_differences(theirs: CallAnswer, ours: CallAnswer) -> list[str]:
    """Say how two answers differ; an empty list where they do not."""
    if ours.status != theirs.status:
        return [f"we answer {ours.status} '{ours.text}', they {theirs.status} '{theirs.text}'"]
    return tensor_differences(theirs.tensors, ours.tensors)


def _changed(message: Any, change: Callable[[Any], object]) -> Any:
    found = service_pb2.ModelInferRequest()
    found.CopyFrom(message)
    change(found)
    return found

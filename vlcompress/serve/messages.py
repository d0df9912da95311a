"""The protocol's messages over gRPC (package `inference`), and those of gRPC's own health check.

The tables name each field with its number and type, as the public protocol does. They become classes in a descriptor
pool of their own, so that they fit any release of protobuf and stand beside a client's classes in one process.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Message = Any
"""An instance of a class that protobuf makes."""

Fields = Mapping[str, tuple[int, str]]

_ID: Fields = {"model_name": (1, "string"), "model_version": (2, "string"), "id": (3, "string")}
_TENSOR: Fields = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "repeated int64")}
_PARAMETERS = "map InferParameter"
_CONTENTS: Fields = {**_TENSOR, "parameters": (4, _PARAMETERS), "contents": (5, "InferTensorContents")}

INFERENCE: Mapping[str, Fields] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": (1, "string"), "version": (2, "string"), "extensions": (3, "repeated string")},
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "repeated ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": {
        "bool_param": (1, "choice bool"),
        "int64_param": (2, "choice int64"),
        "string_param": (3, "choice string"),
        "double_param": (4, "choice double"),
        "uint64_param": (5, "choice uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "ModelInferRequest": {
        **_ID,
        "parameters": (4, _PARAMETERS),
        "inputs": (5, "repeated ModelInferRequest.InferInputTensor"),
        "outputs": (6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": _CONTENTS,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": (1, "string"), "parameters": (2, _PARAMETERS)},
    "ModelInferResponse": {
        **_ID,
        "parameters": (4, _PARAMETERS),
        "outputs": (5, "repeated ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": _CONTENTS,
}
HEALTH: Mapping[str, Fields] = {
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},  # an enum on paper, the same bytes
}
_PACKAGES = {"inference": INFERENCE, "grpc.health.v1": HEALTH}

_FIELD = descriptor_pb2.FieldDescriptorProto


@cache
def message_class(package: str, name: str) -> Any:
    """Get the class of a message.

    Args:
        package: "inference" or "grpc.health.v1".
        name: of the message; an inner one follows its outer one's name and a dot.
    """
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{package}.{name}"))


@cache
def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    for package, messages in _PACKAGES.items():
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        made: dict[str, Any] = {}
        for name, fields in messages.items():
            outer, _, own = name.rpartition(".")
            made[name] = (made[outer].nested_type if outer else file.message_type).add(name=own)
            for field, (number, kind) in fields.items():
                _add_field(made[name], field, number, kind)
        pool.Add(file)
    return pool


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    """Add a field; names of messages are looked up from the message outwards."""
    how, _, base = kind.rpartition(" ")
    several = how in ("repeated", "map")
    field = message.field.add(name=name, number=number)
    field.label = _FIELD.LABEL_REPEATED if several else _FIELD.LABEL_OPTIONAL
    if how == "map":
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, base)
        base = entry.name
    if how == "choice":
        field.oneof_index = 0
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
    scalar = getattr(_FIELD, f"TYPE_{base.upper()}", None)
    field.type = _FIELD.TYPE_MESSAGE if scalar is None else scalar
    if scalar is None:
        field.type_name = base

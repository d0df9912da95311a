"""Infer requests over gRPC, said in the words of HTTP's JSON, so that both are checked by the same code."""

from dataclasses import replace

from vlcompress.serve.decode import DecodedRequest, decode_document, from_binary
from vlcompress.serve.messages import Message
from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.schemas import LONGEST_NAME, MOST_AXES, Json
from vlcompress.serve.tensors import DATATYPES, Arrays

CONTENTS = {
    "BOOL": "bool_contents", "BYTES": "bytes_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
}  # fmt: skip
"""The field that holds the elements of each datatype; FP16 has none."""


def decode_call(request: Message, left_s: float | None = None) -> DecodedRequest:
    """Decode a ModelInferRequest.

    Args:
        request: the message.
        left_s: seconds that the client still waits; None for any.

    Raises:
        Refusal: 400 with what is wrong.
    """
    decoded = _plain(request) or _decoded(request)
    if left_s is None:
        return decoded
    left_us = max(1, int(left_s * 1e6))
    return replace(decoded, timeout_us=min(left_us, decoded.timeout_us or left_us))


def _plain(request: Message) -> DecodedRequest | None:
    """Read what a server is asked all day, raw tensors and nothing else, without the words of HTTP: half the time.

    Anything else, and whatever could be refused for its form, gives None; `tests/serve/test_grpc.py` holds both alike.
    """
    raw, tensors = request.raw_input_contents, request.inputs
    if len(raw) != len(tensors) or not raw or request.outputs or request.parameters:
        return None
    inputs: Arrays = {}
    datatypes: dict[str, str] = {}
    for tensor, part in zip(tensors, raw, strict=True):
        name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
        plain = 0 < len(name) <= LONGEST_NAME and datatype in DATATYPES and 0 < len(shape) <= MOST_AXES
        if not plain or min(shape) < 1 or name in inputs or tensor.parameters or tensor.HasField("contents"):
            return None
        inputs[name], datatypes[name] = from_binary(name, datatype, shape, memoryview(part)), datatype
    return DecodedRequest(request.id, inputs, datatypes, None, binary=True, timeout_us=None)


def _decoded(request: Message) -> DecodedRequest:
    raw = [memoryview(part) for part in request.raw_input_contents]
    if raw and len(raw) != len(request.inputs):
        raise invalid(f"raw_input_contents has {len(raw)} tensors, the request {len(request.inputs)} inputs")
    sizes: list[int | None] = [len(part) for part in raw] or [None] * len(request.inputs)
    document: Json = {
        "id": request.id,
        "parameters": {"binary_data_output": True, **_parameters(request)},
        "inputs": [_input(tensor, size) for tensor, size in zip(request.inputs, sizes, strict=True)],
        "outputs": [{"name": output.name, "parameters": _parameters(output)} for output in request.outputs],
    }
    parts = iter(raw)
    return decode_document(document, lambda name, size: next(parts))


def _input(tensor: Message, raw_size: int | None) -> Json:
    """Say an input in the words of HTTP: raw bytes by their number, or a list."""
    found: Json = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    given = [field.name for field, _ in tensor.contents.ListFields()] if tensor.HasField("contents") else []
    if raw_size is not None:
        if given:
            raise invalid(f"input '{shown(tensor.name)}' has both {given[0]} and raw_input_contents")
        return {**found, "parameters": {**_parameters(tensor), "binary_data_size": raw_size}}
    expected = CONTENTS.get(tensor.datatype, "raw_input_contents")
    if given != [expected]:
        text = f"has {', '.join(given)}: {shown(tensor.datatype)} is not sent so" if given else "has no data"
        raise invalid(f"input '{shown(tensor.name)}' {text}: fill {expected}, or raw_input_contents for every input")
    return {**found, "parameters": _parameters(tensor), "data": list(getattr(tensor.contents, expected))}


def _parameters(message: Message) -> Json:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None)
        for name, value in message.parameters.items()
    }

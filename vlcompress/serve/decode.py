"""Infer requests: JSON and the raw tensors behind it, to numpy arrays. Nothing is allocated by a shape alone."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.schemas import (
    InferInput,
    InferOutput,
    InferRequest,
    Json,
    OutputParameters,
    RequestParameters,
    checked,
)
from vlcompress.serve.tensors import DATATYPES, Array, Arrays, Datatype

LARGEST_EXACT = 2**53
"""Whole numbers above this are not exact in JSON's floats, so a float is accepted for an integer only below it."""


@dataclass(frozen=True)
class WantedOutput:
    """An output that a request asks for.

    Attributes:
        name: of the output; whether the model has it is checked later.
        binary: send raw bytes instead of JSON.
        classes: send the best so many classes as text instead of the tensor; 0 sends the tensor.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class DecodedRequest:
    """An infer request with its tensors.

    Attributes:
        id: to be echoed; "" for none.
        inputs: the tensors by name.
        datatypes: what the request says that they are.
        outputs: what is asked for; None asks for all.
        binary: send outputs raw unless they say otherwise.
        timeout_us: the client's own deadline; None takes the server's.
    """

    id: str
    inputs: Arrays
    datatypes: dict[str, str]
    outputs: tuple[WantedOutput, ...] | None
    binary: bool
    timeout_us: int | None


def decode_request(body: bytes, json_length: int | None) -> DecodedRequest:
    """Decode the body of an infer request.

    Args:
        body: decompressed.
        json_length: value of ``Inference-Header-Content-Length``; None where all of the body is JSON.

    Raises:
        Refusal: 400 with what is wrong.
    """
    if json_length is not None and json_length > len(body):
        raise invalid(f"Inference-Header-Content-Length {json_length} is more than the body's {len(body)} bytes")
    end = len(body) if json_length is None else json_length
    raw = _Raw(body, end)
    decoded = decode_document(parse_object(body[:end]), raw.take)
    raw.finish()
    return decoded


def decode_document(document: Json, take: Callable[[str, int], memoryview]) -> DecodedRequest:
    """Decode an infer request from its JSON, or from another protocol's request in the words of that.

    Args:
        document: the request.
        take: gives the raw tensor of an input (its name, and how many bytes it declares), in the order of the inputs.

    Raises:
        Refusal: 400 with what is wrong.
    """
    asked = checked(InferRequest, document)
    inputs: Arrays = {}
    for row in asked.inputs:
        if row.name in inputs:
            raise invalid(f"input '{shown(row.name)}' is given twice")
        inputs[row.name] = _tensor(row, take)
    parameters = asked.parameters or RequestParameters()
    return DecodedRequest(
        asked.id or "",
        inputs,
        {row.name: row.datatype for row in asked.inputs},
        tuple(_wanted(row, parameters.binary_data_output) for row in asked.outputs or ()) or None,
        parameters.binary_data_output,
        parameters.timeout or None,
    )


def parse_object(text: bytes) -> Json:
    """Read a JSON object, strictly: NaN, Infinity and text that is not UTF-8 are refused.

    Raises:
        Refusal: 400 with what is wrong.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(f"failed to parse the request JSON: {shown(error, 120)}") from None
    if not isinstance(document, dict):
        raise invalid(f"the request JSON is a {type(document).__name__}: an object was expected")
    return document


class _Raw:
    """The raw tensors behind the JSON, taken in the order of the inputs."""

    def __init__(self, body: bytes, start: int) -> None:
        self.body, self.at = body, start

    def take(self, name: str, size: int) -> memoryview:
        left = len(self.body) - self.at
        if size > left:
            raise invalid(f"input '{shown(name)}' declares {size} bytes of binary data, the body has {left} left")
        self.at += size
        return memoryview(self.body)[self.at - size : self.at]

    def finish(self) -> None:
        if self.at != len(self.body):
            raise invalid(f"{len(self.body) - self.at} bytes of the body belong to no input")


def _tensor(row: InferInput, take: Callable[[str, int], memoryview]) -> Array:
    size = row.parameters.binary_data_size if row.parameters else None
    if size is None:
        return _from_json(row.name, row.datatype, tuple(row.shape), row.data)
    if "data" in row.model_fields_set:
        raise invalid(f"input '{shown(row.name)}' has both data and binary_data_size")
    return from_binary(row.name, row.datatype, tuple(row.shape), take(row.name, size))


def _wanted(row: InferOutput, binary: bool) -> WantedOutput:
    parameters = row.parameters or OutputParameters()
    raw = binary if parameters.binary_data is None else parameters.binary_data
    return WantedOutput(row.name, raw, parameters.classification)


def _from_json(name: str, datatype: Datatype, shape: tuple[int, ...], data: object) -> Array:
    if not isinstance(data, list):
        raise invalid(f"input '{shown(name)}' has no data: give a list, or binary_data_size and raw bytes")
    if datatype == "FP16":
        raise invalid(f"input '{shown(name)}': FP16 can be sent as raw bytes only")
    flat = _flatten(data, shape) if data and isinstance(data[0], list) else data
    if flat is None or len(flat) != math.prod(shape):
        raise invalid(f"input '{shown(name)}' has shape {shown(list(shape))}, which its data does not have")
    convert = {"BYTES": _strings, "BOOL": _booleans}.get(datatype)
    array = convert(name, flat) if convert else _numbers(name, DATATYPES[datatype], flat)
    return array.reshape(shape)


def _flatten(data: list[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """List the elements of a list nested exactly as `shape` says; None if it is not."""
    level = [data]
    for size in shape:
        if not all(isinstance(part, list) and len(part) == size for part in level):
            return None
        level = [element for part in level for element in part]
    return level


def _strings(name: str, flat: list[Any]) -> Array:
    if not all(isinstance(value, str | bytes) for value in flat):
        raise invalid(f"input '{shown(name)}' is BYTES: its data must be strings")
    array = np.empty(len(flat), dtype=np.object_)
    try:
        array[:] = [value.encode() if isinstance(value, str) else value for value in flat]
    except UnicodeEncodeError:
        raise invalid(f"input '{shown(name)}' holds a string that is not Unicode text") from None
    return array


def _booleans(name: str, flat: list[Any]) -> Array:
    if not all(isinstance(value, bool) or value in (0, 1) for value in flat):
        raise invalid(f"input '{shown(name)}' is BOOL: its data must be true or false")
    return np.asarray(flat, dtype=np.bool_)


def _numbers(name: str, dtype: np.dtype[np.generic], flat: list[Any]) -> Array:
    kinds = set(map(type, flat))  # numpy alone would take true for 1 and "4" for 4
    if not kinds <= {int, float}:
        raise invalid(f"input '{shown(name)}' holds something that is not a number")
    convert = _floats if dtype.kind == "f" else _integers
    try:
        return convert(name, dtype, flat, float in kinds)
    except OverflowError:
        raise invalid(f"input '{shown(name)}' holds a number outside the range of {dtype}") from None


def _floats(name: str, dtype: np.dtype[np.generic], flat: list[Any], _: bool) -> Array:
    with np.errstate(over="ignore"):
        array = np.array(flat, dtype=np.float64).astype(dtype)
    if not np.isfinite(array).all():
        raise invalid(f"input '{shown(name)}' holds a number that is not finite as {dtype}")
    return array


def _integers(name: str, dtype: np.dtype[np.generic], flat: list[Any], some_floats: bool) -> Array:
    """Convert to whole numbers; 1.0 is accepted for 1, since some clients turn every number into a float."""
    if some_floats:
        if not all(value == int(value) and abs(value) <= LARGEST_EXACT for value in flat if abs(value) < math.inf):
            raise invalid(f"input '{shown(name)}' holds a number that is not whole, or too large to be exact")
        flat = [int(value) for value in flat]  # infinity overflows
    return np.array(flat, dtype=dtype)


def from_binary(name: str, datatype: Datatype, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Read a raw tensor, little-endian and row-major.

    Args:
        name: of the input, for the refusal.
        datatype, shape: what the request says of it.
        raw: its bytes; not copied.

    Raises:
        Refusal: 400: they do not fit.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _raw_strings(name, count, raw).reshape(shape)
    dtype = DATATYPES[datatype].newbyteorder("<")
    if len(raw) != count * dtype.itemsize:
        raise invalid(
            f"input '{shown(name)}' has {len(raw)} bytes of binary data: {datatype} {shown(list(shape))} takes "
            f"{count * dtype.itemsize}"
        )
    if datatype == "BOOL" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise invalid(f"input '{shown(name)}' is BOOL: its bytes must be 0 or 1")
    array = np.frombuffer(raw, dtype=dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise invalid(f"input '{shown(name)}' holds a number that is not finite")
    return array.reshape(shape)


def _raw_strings(name: str, count: int, raw: memoryview) -> Array:
    """Read elements of a 4-byte little-endian length and so many bytes."""
    values: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(values) == count or at + 4 > len(raw):
            break
        (size,) = struct.unpack_from("<I", raw, at)
        if at + 4 + size > len(raw):
            break
        values.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    if len(values) != count or at != len(raw):
        raise invalid(f"input '{shown(name)}' does not hold {count} strings, each with its 4-byte length")
    array = np.empty(count, dtype=np.object_)
    array[:] = values
    return array

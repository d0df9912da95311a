"""Infer requests: JSON and the raw tensors behind it, to numpy arrays. Nothing is allocated by a shape alone."""

import math
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.tensors import DATATYPES, Array, Arrays

Json = dict[str, Any]

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
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A decoded request.

    Attributes:
        id: to be echoed; "" for none.
        inputs: the tensors by name.
        outputs: what is asked for; None asks for all.
        binary: send outputs raw unless they say otherwise.
        timeout_us: the client's own deadline; None takes the server's.
    """

    id: str
    inputs: Arrays
    outputs: tuple[WantedOutput, ...] | None
    binary: bool = False
    timeout_us: int | None = None
    datatypes: dict[str, str] = field(default_factory=dict)


def decode_request(body: bytes, json_length: int | None) -> InferRequest:
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
    document = parse_object(body[:end])
    raw = _Raw(body, end)
    parameters = _object(document, "parameters", "request")
    _refuse_unsupported(parameters)
    rows = _list(document, "inputs", "request")
    if not rows:
        raise invalid("request has no inputs: give at least one")
    inputs: Arrays = {}
    datatypes: dict[str, str] = {}
    for row in rows:
        name, datatype, array = _input(row, raw)
        if name in inputs:
            raise invalid(f"input '{shown(name)}' is given twice")
        inputs[name], datatypes[name] = array, datatype
    raw.finish()
    outputs = document.get("outputs")
    binary = _flag(parameters, "binary_data_output", "request")
    wanted = None if outputs is None else tuple(_output(row, binary) for row in _list(document, "outputs", "request"))
    return InferRequest(_id(document), inputs, wanted or None, binary, _timeout(parameters), datatypes)


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


def _input(row: object, raw: _Raw) -> tuple[str, str, Array]:
    if not isinstance(row, dict):
        raise invalid("an input is not an object")
    name = row.get("name")
    if not isinstance(name, str) or not name:
        raise invalid("an input has no name")
    datatype = row.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise invalid(f"input '{shown(name)}' has datatype {shown(datatype)}: allowed are {', '.join(DATATYPES)}")
    shape = _shape(row, name)
    parameters = _object(row, "parameters", f"input '{shown(name)}'")
    _refuse_unsupported(parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        return name, datatype, _from_json(name, datatype, shape, row)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise invalid(f"input '{shown(name)}' has binary_data_size {shown(size)}: give a number of bytes")
    if "data" in row:
        raise invalid(f"input '{shown(name)}' has both data and binary_data_size")
    return name, datatype, _from_binary(name, datatype, shape, raw.take(name, size))


def _shape(row: Json, name: str) -> tuple[int, ...]:
    shape = row.get("shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise invalid(f"input '{shown(name)}' has no shape, or one that is not a list of whole numbers")
    if any(size < 1 for size in shape) or len(shape) > 16:
        raise invalid(f"input '{shown(name)}' has shape {shown(shape)}: every size must be 1 or more")
    return tuple(shape)


def _from_json(name: str, datatype: str, shape: tuple[int, ...], row: Json) -> Array:
    data = row.get("data")
    if not isinstance(data, list):
        raise invalid(f"input '{shown(name)}' has no data: give a list, or binary_data_size and raw bytes")
    if datatype == "FP16":
        raise invalid(f"input '{shown(name)}': FP16 has no JSON form, send it as binary data")
    flat = _flatten(data, shape) if data and isinstance(data[0], list) else data
    if flat is None or len(flat) != math.prod(shape):
        raise invalid(f"input '{shown(name)}' has shape {shown(list(shape))}, which its data does not have")
    convert = {"BYTES": _strings, "BOOL": _booleans}.get(datatype)
    array = convert(name, flat) if convert else _numbers(name, DATATYPES[datatype], flat)
    return array.reshape(shape)


def _flatten(data: list[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """Return the elements of a list nested exactly as `shape` says; None if it is not."""
    level = [data]
    for size in shape:
        if not all(isinstance(part, list) and len(part) == size for part in level):
            return None
        level = [element for part in level for element in part]
    return level


def _strings(name: str, flat: list[Any]) -> Array:
    if not all(isinstance(value, str) for value in flat):
        raise invalid(f"input '{shown(name)}' is BYTES: its data must be strings")
    array = np.empty(len(flat), dtype=np.object_)
    try:
        array[:] = [value.encode() for value in flat]
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


def _from_binary(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> Array:
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


def _output(row: object, binary: bool) -> WantedOutput:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise invalid("an output is not an object with a name")
    where = f"output '{shown(row['name'])}'"
    parameters = _object(row, "parameters", where)
    _refuse_unsupported(parameters)
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise invalid(f"{where} asks for classification {shown(classes)}: give the number of classes")
    raw = _flag(parameters, "binary_data", where) if "binary_data" in parameters else binary
    return WantedOutput(row["name"], raw, classes)


def _refuse_unsupported(parameters: Json) -> None:
    for name in ("shared_memory_region", "sequence_id"):
        if parameters.get(name):
            raise invalid(f"parameter '{name}' is not offered: the server's metadata lists its extensions")


def _id(document: Json) -> str:
    found = document.get("id", "")
    if not isinstance(found, str) or len(found) > 1024:
        raise invalid("the request's id is not a string of at most 1024 characters")
    return found


def _timeout(parameters: Json) -> int | None:
    timeout = parameters.get("timeout")
    if timeout is None or timeout == 0:
        return None
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise invalid(f"parameter 'timeout' is {shown(timeout)}: give microseconds")
    return timeout


def _object(document: Json, key: str, where: str) -> Json:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise invalid(f"'{key}' of {where} is not an object")
    return found


def _list(document: Json, key: str, where: str) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list):
        raise invalid(f"'{key}' of {where} is missing or not a list")
    return found


def _flag(parameters: Json, key: str, where: str) -> bool:
    found = parameters.get(key, False)
    if not isinstance(found, bool):
        raise invalid(f"parameter '{key}' of {where} is neither true nor false")
    return found

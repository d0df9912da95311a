"""Infer responses: numpy arrays to JSON, to raw tensors behind it, or to classes."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from vlcompress.serve.decode import WantedOutput
from vlcompress.serve.refusal import Refusal, invalid, shown
from vlcompress.serve.tensors import Array, Arrays, Datatype, TensorSpec


@dataclass(frozen=True)
class ResponseBody:
    """A response body; `json_length` is None where all of it is JSON."""

    body: bytes
    json_length: int | None


@dataclass(frozen=True)
class SentOutput:
    """One output as it is sent; `binary` asks for raw bytes where the protocol leaves the choice."""

    name: str
    datatype: Datatype
    array: Array
    binary: bool


def wanted_outputs(
    specs: Sequence[TensorSpec], asked: Sequence[WantedOutput] | None, binary: bool
) -> tuple[WantedOutput, ...]:
    """Resolve what a request asks for against what the model has.

    Raises:
        Refusal: 400: an unknown output, one asked for twice, or one that cannot be sent so.
    """
    by_name = {spec.name: spec for spec in specs}
    if asked is None:
        asked = tuple(WantedOutput(spec.name, binary) for spec in specs)
    for index, output in enumerate(asked):
        spec = by_name.get(output.name)
        if spec is None:
            raise invalid(f"unexpected inference output '{shown(output.name)}': the model has {', '.join(by_name)}")
        if any(other.name == output.name for other in asked[:index]):
            raise invalid(f"output '{output.name}' is asked for twice")
        if spec.datatype == "FP16" and not (output.binary or output.classes):
            raise invalid(f"output '{output.name}' is FP16, which has no JSON form: ask for it as binary data")
        if output.classes and spec.datatype in ("BYTES", "BOOL"):
            raise invalid(f"output '{output.name}' is {spec.datatype}: it has no classes")
    return tuple(asked)


def sent_outputs(
    wanted: Sequence[WantedOutput],
    results: Mapping[str, Array],
    specs: Sequence[TensorSpec],
    labels: Sequence[str],
) -> list[SentOutput]:
    """Take from a model's results what a request asks for, ranked where it asks for classes.

    Args:
        wanted: outputs in the order to be sent.
        results: the arrays by name, finite.
        specs: the model's outputs.
        labels: names of the classes; may be empty.
    """
    datatypes = {spec.name: spec.datatype for spec in specs}
    return [
        SentOutput(output.name, "BYTES", classified(results[output.name], output.classes, labels), output.binary)
        if output.classes
        else SentOutput(output.name, datatypes[output.name], results[output.name], output.binary)
        for output in wanted
    ]


def encode_response(model: str, version: int, request_id: str, sent: Sequence[SentOutput]) -> ResponseBody:
    """Write a response as JSON and raw tensors behind it.

    Args:
        model: the model's name.
        version: its version.
        request_id: the request's id; "" is left out.
        sent: the outputs.
    """
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output in sent:
        row: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.array.shape)}
        if output.binary:
            raw.append(raw_bytes(output.array))
            row["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            row["data"] = _plain(output.name, output.array)
        outputs.append(row)
    head: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request_id:
        head["id"] = request_id
    text = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return ResponseBody(b"".join([text, *raw]), len(text) if raw else None)


def refuse_non_finite(results: Arrays) -> None:
    """Refuse to send NaN or infinity: they have no JSON form, and no meaning as a score.

    A file that always gives them does not pass its samples when it is loaded: here it is numbers that a request holds,
    finite ones too (1e38), which go beyond what the model computes in.

    Raises:
        Refusal: 400.
    """
    for name, array in results.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            text = f"the model gives a number that is not finite in output '{name}' on these inputs: nothing is sent"
            raise Refusal(400, text, "non_finite_output")


def classified(array: Array, classes: int, labels: Sequence[str]) -> Array:
    """Rank the classes of each row, best first, as ``value:index:label`` (the label where there is one).

    Args:
        array: scores [batch, ...]; what follows the batch is flattened.
        classes: how many; fewer where there are not as many.
        labels: names by index.

    Returns:
        bytes [batch, classes].
    """
    rows_BL = np.asarray(array).reshape(len(array), -1)
    best_BK = np.argsort(-rows_BL.astype(np.float64), axis=1, kind="stable")[:, :classes]
    values = [[_class(row[i], int(i), labels) for i in best] for row, best in zip(rows_BL, best_BK, strict=True)]
    result = np.empty(best_BK.shape, dtype=np.object_)
    result[:] = values
    return result


def _class(value: Any, index: int, labels: Sequence[str]) -> bytes:
    number = f"{value:f}" if isinstance(value, np.floating) else str(value)
    return f"{number}:{index}:{labels[index]}".encode() if index < len(labels) else f"{number}:{index}".encode()


def _plain(name: str, array: Array) -> Array | list[str]:
    """Flatten what stands in the JSON; numbers stay an array, which is written some ten times faster."""
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).ravel()
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    except UnicodeDecodeError:
        raise invalid(f"output '{name}' is not UTF-8 text: ask for it as binary data") from None


def raw_bytes(array: Array) -> bytes:
    """Write a tensor little-endian and row-major; each text is preceded by its length in 4 bytes."""
    if array.dtype != np.object_:
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    values = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel()]
    return b"".join(part for value in values for part in (struct.pack("<I", len(value)), value))

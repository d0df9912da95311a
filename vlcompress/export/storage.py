"""ONNX models on disk, without ever holding all of their weights a second time.

While a model is worked on, its weights lie in a file of their own, which ONNX Runtime maps instead of reading. What is
shipped is one file, written weight by weight; above 2 GB, protobuf's limit, the weights stay in their own file.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

LIMIT = 2_000_000_000
"""Bytes above which the weights get a file of their own; protobuf itself ends at 2^31 - 1."""

IN_FLIGHT = 1 << 26
"""Bytes of weights copied at a time while they are written; the library's own choice is a gigabyte."""

_GRAPH = 7  # numbers of protobuf fields in onnx.proto: ModelProto.graph,
_INITIALIZER = 5  # GraphProto.initializer,
_RAW_DATA = 9  # TensorProto.raw_data
_BYTES = 2  # wire type of a field with a length


def save_apart(model: ir.Model, path: Path) -> int:
    """Write a model with its weights in ``path.data`` beside it; give the bytes of both."""
    ir.save(model, path, external_data=data_file(path).name, size_threshold_bytes=1024, max_in_flight_bytes=IN_FLIGHT)
    return size(path)


def data_file(path: Path) -> Path:
    """Name the file of a model's weights where they are not in the model's own."""
    return path.with_name(f"{path.name}.data")


def size(path: Path) -> int:
    """Count the bytes of a model, weights in their own file included."""
    return sum(file.stat().st_size for file in (path, data_file(path)) if file.is_file())


def save_onnx(source: Path, path: Path, limit: int = LIMIT) -> None:
    """Write the model of `save_apart` as one file, or as two if it is larger than `limit` bytes."""
    import onnx

    if size(source) > limit:
        model = onnx.load(source, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = data_file(path).name
        path.write_bytes(model.SerializeToString())
        if data_file(source).is_file():
            shutil.copyfile(data_file(source), data_file(path))
        return
    with path.open("wb") as file:
        for piece in _embedded(source):
            file.write(piece)


def _embedded(source: Path) -> Iterator[bytes | memoryview]:
    """Serialise a ModelProto with its external weights inside, piece by piece."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    data = np.memmap(data_file(source), mode="r") if data_file(source).is_file() else np.zeros(0, dtype=np.uint8)
    places = [_place(tensor) for tensor in tensors]
    heads = [_head(tensor, length) for tensor, (_, length) in zip(tensors, places, strict=True)]
    lengths = [len(head) + length for head, (_, length) in zip(heads, places, strict=True)]
    tags = [_tag(_INITIALIZER, length) for length in lengths]
    yield model.SerializeToString()
    yield _tag(_GRAPH, len(graph) + sum(map(len, tags)) + sum(lengths))
    yield graph
    for tag, head, (offset, length) in zip(tags, heads, places, strict=True):
        yield tag + head
        if length:
            yield data[offset : offset + length].data


def _place(tensor: Any) -> tuple[int, int]:
    """Read offset and length of a tensor's bytes in the weights' file; (0, 0) if it holds them itself."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    return int(told.get("offset", 0)), int(told.get("length", 0))


def _head(tensor: Any, length: int) -> bytes:
    """Serialise a tensor's fields, with room announced for `length` bytes of raw data to follow."""
    if length:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    head: bytes = tensor.SerializeToString()
    return head + (_tag(_RAW_DATA, length) if length else b"")


def _tag(field: int, length: int) -> bytes:
    return bytes([field << 3 | _BYTES]) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

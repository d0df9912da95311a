"""Requests that our server and NVIDIA's are asked alike, and where they are meant to differ.

A request is raw HTTP, so that wrong ones can be said too. Answers are compared by status and, where both are 200, by
tensors; error texts are each server's own.
"""

import gzip
import http.client
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Json = dict[str, Any]
Arrays = Mapping[str, npt.NDArray[Any]]
KSERVE = {"int64": "INT64", "float32": "FP32"}


@dataclass(frozen=True)
class Request:
    """One HTTP request; the path is below ``/v2``."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back: the status, and the parsed body (None if empty)."""

    status: int
    content: Any
    tensors: Mapping[str, npt.NDArray[Any]]


_NOT_A_CRASH = (
    "inputs left out", "a type of another kind", "no type", "no shape", "no name", "negative size",
    "size is no integer", "data shorter than shape", "data longer than shape", "text in an integer tensor",
    "1.5 in an integer tensor", "bad json", "not json", "json list", "header length too short", "no header length",
)  # fmt: skip

DELIBERATE: dict[str, tuple[int, int, str]] = {
    "server metadata with slash": (404, 200, "the protocol's OpenAPI file writes the path with a slash"),
    "1.0 in an integer tensor": (500, 200, "clients that know one kind of number write integers so"),
    **dict.fromkeys(_NOT_A_CRASH, (500, 400, "a wrong request is the client's mistake, never the server's")),
}
"""By case: NVIDIA's status, ours, and why."""


def cases(model: str, arrays: Arrays, max_batch: int) -> dict[str, Request]:
    """List the requests.

    Args:
        model: its name on both servers.
        arrays: a valid batch of at least 2 rows, by input.
        max_batch: the servers' largest batch.
    """
    return {**_reads(model), **_right(model, arrays), **_wrong(model, arrays, max_batch), **_lies(model, arrays)}


def _reads(model: str) -> dict[str, Request]:
    paths = {
        "server metadata": "",
        "server metadata with slash": "/",
        "live": "/health/live",
        "ready": "/health/ready",
        "model metadata": f"/models/{model}",
        "model metadata of a version": f"/models/{model}/versions/1",
        "model ready": f"/models/{model}/ready",
        "version ready": f"/models/{model}/versions/1/ready",
        "config": f"/models/{model}/config",
        "statistics": f"/models/{model}/stats",
        "unknown model": "/models/nope",
        "unknown version": f"/models/{model}/versions/9",
        "a version that is no number": f"/models/{model}/versions/one",
        "unknown path": "/nothing",
    }
    return {
        **{name: Request("GET", path) for name, path in paths.items()},
        "repository index": Request("POST", "/repository/index"),
        "infer with GET": Request("GET", f"/models/{model}/infer"),
    }


def _right(model: str, arrays: Arrays) -> dict[str, Request]:
    plain, binary = document(arrays), document(arrays, binary=True)
    body = json.dumps(plain).encode()
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    one = {name: value[:1] for name, value in arrays.items()}
    nested = document(arrays)
    for tensor, value in zip(nested["inputs"], arrays.values(), strict=True):
        tensor["data"] = value.tolist()
    mixed = document(arrays)
    mixed["inputs"][-1] = document(arrays, binary=True)["inputs"][-1]
    last = list(arrays.values())[-1].tobytes()
    return {
        "json": _infer(model, plain),
        "json, nested": _infer(model, nested),
        "json, one row": _infer(model, document(one)),
        "json to binary": _infer(model, {**plain, "outputs": outputs}),
        "binary to json": _infer(model, binary, raw(arrays)),
        "binary": _infer(model, {**binary, "outputs": outputs}, raw(arrays)),
        "binary asked for once": _infer(model, {**binary, "parameters": {"binary_data_output": True}}, raw(arrays)),
        "one input binary": _infer(model, mixed, last),
        "a version": Request("POST", f"/models/{model}/versions/1/infer", body),
        "id": _infer(model, {**plain, "id": "abc"}),
        "classification": _infer(model, {**plain, **_classes_of(3)}),
        "classification, binary": _infer(model, {**plain, **_classes_of(2, binary_data=True)}),
        "gzip": Request("POST", f"/models/{model}/infer", gzip.compress(body), {"Content-Encoding": "gzip"}),
        "deflate": Request("POST", f"/models/{model}/infer", zlib.compress(body), {"Content-Encoding": "deflate"}),
        "gzip answer": Request("POST", f"/models/{model}/infer", body, {"Accept-Encoding": "gzip"}),
        "an ample timeout": _infer(model, {**plain, "parameters": {"timeout": 2_000_000}}),
        "inputs in another order": _infer(model, {"inputs": plain["inputs"][::-1]}),
    }  # fmt: skip


def _wrong(model: str, arrays: Arrays, max_batch: int) -> dict[str, Request]:
    plain = document(arrays)
    many = {name: np.repeat(value[:1], max_batch + 1, axis=0) for name, value in arrays.items()}
    fewer = {name: value[: 1 + (index > 0)] for index, (name, value) in enumerate(arrays.items())}
    none = {name: value[:0] for name, value in arrays.items()}
    first = plain["inputs"][0]
    return {
        "infer, unknown model": _infer("nope", plain),
        "infer, unknown version": Request("POST", f"/models/{model}/versions/9/infer", json.dumps(plain).encode()),
        "an input is missing": _infer(model, {"inputs": plain["inputs"][1:]}),
        "no inputs": _infer(model, {"inputs": []}),
        "inputs left out": _infer(model, {}),
        "an input too many": _infer(model, {"inputs": [*plain["inputs"], {**first, "name": "more"}]}),
        "an input twice": _infer(model, {"inputs": [*plain["inputs"], first]}),
        "another type": _changed(model, plain, datatype="INT32"),
        "no such type": _changed(model, plain, datatype="INT65"),
        "a type of another kind": _changed(model, plain, datatype=7),
        "no type": _without(model, plain, "datatype"),
        "no shape": _without(model, plain, "shape"),
        "no name": _without(model, plain, "name"),
        "no data": _without(model, plain, "data"),
        "rank too low": _changed(model, plain, shape=[math.prod(first["shape"])]),
        "rank too high": _changed(model, plain, shape=[*first["shape"], 1]),
        "negative size": _changed(model, plain, shape=[-2, *first["shape"][1:]]),
        "size is no integer": _changed(model, plain, shape=["two", *first["shape"][1:]]),
        "fixed size is another": _infer(model, document({**arrays, "visual_feats": arrays["visual_feats"][:, :, 1:]})),
        "batch too large": _infer(model, document(many)),
        "batch sizes differ": _infer(model, document(fewer)),
        "no rows": _infer(model, document(none)),
        "unknown output": _infer(model, {**plain, "outputs": [{"name": "nope"}]}),
        "data shorter than shape": _changed(model, plain, data=first["data"][1:]),
        "data longer than shape": _changed(model, plain, data=[*first["data"], 1]),
        "text in an integer tensor": _changed(model, plain, data=["1", *first["data"][1:]]),
        "1.5 in an integer tensor": _changed(model, plain, data=[1.5, *first["data"][1:]]),
        "1.0 in an integer tensor": _changed(model, plain, data=[float(value) for value in first["data"]]),
        "bad json": Request("POST", f"/models/{model}/infer", json.dumps(plain).encode()[:-2]),
        "not json": Request("POST", f"/models/{model}/infer", b"\xff\xfe tensor"),
        "json list": Request("POST", f"/models/{model}/infer", b"[]"),
        "empty body": Request("POST", f"/models/{model}/infer"),
        "bad gzip": Request("POST", f"/models/{model}/infer", b"no gzip", {"Content-Encoding": "gzip"}),
        "classification of no classes": _infer(model, {**plain, **_classes_of(0)}),
    }  # fmt: skip


def _lies(model: str, arrays: Arrays) -> dict[str, Request]:
    binary, data = document(arrays, binary=True), raw(arrays)
    path, size = f"/models/{model}/infer", len(json.dumps(binary).encode())
    small = document(arrays, binary=True)
    small["inputs"][0]["parameters"]["binary_data_size"] -= 8
    large = document(arrays, binary=True)
    large["inputs"][-1]["parameters"]["binary_data_size"] += 8
    body = json.dumps(binary).encode() + data
    return {
        "binary data too short": _infer(model, binary, data[:-4]),
        "binary data too long": _infer(model, binary, data + b"1234"),
        "binary size too small": _infer(model, small, data),
        "binary size too large": _infer(model, large, data),
        "header length is text": Request("POST", path, body, _length("many")),
        "header length is negative": Request("POST", path, body, _length("-1")),
        "header length beyond the body": Request("POST", path, body, _length(size * 99)),
        "header length too short": Request("POST", path, body, _length(size - 1)),
        "no header length": Request("POST", path, body),
    }  # fmt: skip


def document(arrays: Arrays, *, binary: bool = False) -> Json:
    """Return the JSON of an inference request, with flat data or with the sizes of binary data."""
    inputs = []
    for name, value in arrays.items():
        tensor: Json = {"name": name, "shape": list(value.shape), "datatype": KSERVE[str(value.dtype)]}
        if binary:
            tensor["parameters"] = {"binary_data_size": value.nbytes}
        else:
            tensor["data"] = value.ravel().tolist()
        inputs.append(tensor)
    return {"inputs": inputs}


def raw(arrays: Arrays) -> bytes:
    """Return the binary part of a request: little-endian tensors in the order of the inputs."""
    return b"".join(value.tobytes() for value in arrays.values())


def ask(url: str, request: Request) -> Answer:
    """Send a request to "host:port" and parse the answer, tensors of it too."""
    connection = http.client.HTTPConnection(url, timeout=30)
    try:
        connection.request(request.method, "/v2" + request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        body = response.read()
        if response.getheader("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        length = response.getheader("Inference-Header-Content-Length")
    finally:
        connection.close()
    head, tail = (body[: int(length)], body[int(length) :]) if length else (body, b"")
    try:
        content = json.loads(head) if head else None
    except ValueError:
        content = head.decode(errors="replace")
    tensors = _tensors(content, tail) if request.path.endswith("/infer") and response.status == 200 else {}
    return Answer(response.status, content, tensors)


def _tensors(content: Any, tail: bytes) -> dict[str, npt.NDArray[Any]]:
    found = {}
    for tensor in content["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is not None:
            values, tail = _unpack(tensor["datatype"], tail[:size]), tail[size:]
        else:
            values = np.array(tensor["data"])
        found[tensor["name"]] = values.reshape(tensor["shape"])
    return found


def _unpack(datatype: str, data: bytes) -> npt.NDArray[Any]:
    if datatype != "BYTES":
        return np.frombuffer(data, {"FP32": "<f4"}[datatype])
    texts = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        texts.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return np.array(texts)


def differences(case: str, theirs: Answer, ours: Answer) -> list[str]:
    """Say how two answers differ though they should not; an empty list where they are as meant."""
    theirs_status, ours_status, _ = DELIBERATE.get(case, (theirs.status, theirs.status, ""))
    found = []
    if theirs.status != theirs_status:
        found.append(f"the reference answers {theirs.status}, {theirs_status} was recorded")
    if ours.status != ours_status:
        found.append(f"we answer {ours.status} {ours.content}, meant is {ours_status}; theirs {theirs.content}")
    if theirs.status == ours.status == 200:
        found += tensor_differences(theirs.tensors, ours.tensors)
    if ours.status != 200 and not (isinstance(ours.content, dict) and set(ours.content) == {"error"}):
        found.append(f"our error is not {{'error': text}}: {ours.content}")
    return found


def tensor_differences(theirs: Arrays, ours: Arrays) -> list[str]:
    """Say which tensors of two answers differ."""
    if set(theirs) != set(ours):
        return [f"outputs {sorted(ours)} instead of {sorted(theirs)}"]
    wrong = [name for name, value in theirs.items() if not _same(value, ours[name])]
    return [f"'{name}' differs: {ours[name]} instead of {theirs[name]}" for name in wrong]


def _same(theirs: npt.NDArray[Any], ours: npt.NDArray[Any]) -> bool:
    """Compare tensors; of classes ("score:index:label") the scores may differ in the last digits."""
    if theirs.shape != ours.shape:
        return False
    if theirs.dtype.kind not in "US":
        return bool(np.allclose(theirs, ours, rtol=1e-4, atol=1e-5))
    pairs = zip(_classes(theirs), _classes(ours), strict=True)
    return all(a[1:] == b[1:] and math.isclose(float(a[0]), float(b[0]), abs_tol=1e-4) for a, b in pairs)


def _classes(texts: npt.NDArray[Any]) -> list[Sequence[str]]:
    return [text.split(":", 2) for text in texts.ravel().tolist()]


def _infer(model: str, content: Json, tail: bytes = b"") -> Request:
    head = json.dumps(content).encode()
    headers = _length(len(head)) if tail else {}
    return Request("POST", f"/models/{model}/infer", head + tail, headers)


def _length(claimed: int | str) -> dict[str, str]:
    return {"Inference-Header-Content-Length": str(claimed)}


def _classes_of(count: int, **parameters: Any) -> Json:
    return {"outputs": [{"name": "logits", "parameters": {"classification": count, **parameters}}]}


def _changed(model: str, plain: Json, **changes: Any) -> Request:
    return _infer(model, {"inputs": [{**plain["inputs"][0], **changes}, *plain["inputs"][1:]]})


def _without(model: str, plain: Json, key: str) -> Request:
    first = {name: value for name, value in plain["inputs"][0].items() if name != key}
    return _infer(model, {"inputs": [first, *plain["inputs"][1:]]})

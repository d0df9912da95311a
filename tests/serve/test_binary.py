"""Raw tensors behind the JSON: lengths that lie are told, and nothing is taken for what it is not."""

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serve.conftest import LABELS, Client, expected_words

INFER = "/v2/models/words/infer"
IDS = np.array([[1, 2, 3]])
RAW = IDS.astype("<i8").tobytes()
SIZE = len(RAW)


def post(client: Client, head: dict[str, Any], raw: bytes, length: int | str | None = None, **headers: str) -> Any:
    text = json.dumps(head).encode()
    length = len(text) if length is None else length
    sent = {"Inference-Header-Content-Length": str(length), **headers}
    return client.post(INFER, content=text + raw, headers=sent)


def head(first: int = SIZE, second: int = SIZE, shape: tuple[int, ...] = (1, 3), **more: Any) -> dict[str, Any]:
    tensors = [("input_ids", first), ("attention_mask", second)]
    inputs = [
        {"name": name, "datatype": "INT64", "shape": list(shape), "parameters": {"binary_data_size": size}}
        for name, size in tensors
    ]
    return {"inputs": inputs, **more}


ONES = np.ones_like(IDS).astype("<i8").tobytes()


def tensor_of(found: httpx.Response) -> Any:
    length = int(found.headers["inference-header-content-length"])
    document = json.loads(found.content[:length])
    assert document["outputs"][0]["parameters"]["binary_data_size"] == len(found.content) - length
    return np.frombuffer(found.content[length:], "<f4").reshape(document["outputs"][0]["shape"])


def test_binary_in_and_out(client: Client) -> None:
    found = post(client, head(parameters={"binary_data_output": True}), RAW + ONES)
    assert found.headers["content-type"] == "application/octet-stream"
    np.testing.assert_allclose(tensor_of(found), expected_words(IDS.tolist()), rtol=1e-6)


def test_an_output_can_decline_what_the_request_asks_for(client: Client) -> None:
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}]
    found = post(client, head(parameters={"binary_data_output": True}, outputs=outputs), RAW + ONES)
    assert "inference-header-content-length" not in found.headers
    assert len(found.json()["outputs"][0]["data"]) == LABELS


def test_one_tensor_raw_and_one_in_json(client: Client) -> None:
    request = head()
    request["inputs"][0] = {"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]}
    found = post(client, request, ONES)
    np.testing.assert_allclose(found.json()["outputs"][0]["data"], expected_words(IDS.tolist())[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("request_head", "raw", "says"),
    [
        (head(), RAW + ONES[:-1], "declares 24 bytes of binary data, the body has 23 left"),
        (head(), RAW + ONES + b"x", "1 bytes of the body belong to no input"),
        (head(first=SIZE - 8), RAW[:-8] + ONES, "has 16 bytes of binary data: INT64 [1, 3] takes 24"),
        (head(first=10**18), RAW + ONES, "declares 1000000000000000000 bytes"),
        (head(first=-1), RAW + ONES, "give a number of bytes"),
        (head(first=True), RAW + ONES, "give a number of bytes"),
        (head(shape=(2**40, 2**40)), RAW + ONES, "takes 9671406556917033397649408"),
        (head(), b"", "the body has 0 left"),
    ],
)
def test_lengths_that_lie(client: Client, request_head: dict[str, Any], raw: bytes, says: str) -> None:
    found = post(client, request_head, raw)
    assert found.status_code == 400
    assert says in found.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "1.5", "10000", "٣"])
def test_header_lengths_that_lie(client: Client, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode()}
    found = client.post(INFER, content=json.dumps(head()).encode() + RAW + ONES, headers=headers)
    assert found.status_code == 400


def test_raw_bytes_without_the_header_are_not_json(client: Client) -> None:
    assert client.post(INFER, content=json.dumps(head()).encode() + RAW + ONES).status_code == 400


def text_request(raw: bytes) -> tuple[dict[str, Any], bytes]:
    name = {"name": "in_BYTES", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(raw)}}
    return {"inputs": [name]}, raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        struct.pack("<I", 1) + b"a",
        struct.pack("<I", 2**32 - 1) + b"a" * 12,
        struct.pack("<I", 1) + b"a" + struct.pack("<I", 1),
        (struct.pack("<I", 1) + b"a") * 3,
        b"\x01",
    ],
)
def test_text_with_wrong_lengths(client: Client, raw: bytes) -> None:
    request_head, raw = text_request(raw)
    text = json.dumps(request_head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    found = client.post("/v2/models/types/infer", content=text + raw, headers=headers)
    assert found.status_code == 400
    assert "does not hold 2 strings" in found.json()["error"]


def test_floats_that_are_not_finite_and_booleans_that_are_not_booleans(client: Client) -> None:
    def ask(path: str, name: str, datatype: str, raw: bytes) -> str:
        row = {"name": name, "datatype": datatype, "shape": [1, 2], "parameters": {"binary_data_size": len(raw)}}
        text = json.dumps({"inputs": [row]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        found = client.post(path, content=text + raw, headers=headers)
        assert found.status_code == 400
        return str(found.json()["error"])

    nan = np.array([1, np.nan], "<f4").tobytes()
    assert "not finite" in ask("/v2/models/log/infer", "x", "FP32", nan)
    assert "must be 0 or 1" in ask("/v2/models/types/infer", "in_BOOL", "BOOL", b"\x00\x02")

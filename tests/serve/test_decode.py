"""Requests become exactly the arrays that they say, in JSON and in raw bytes; what has no exact array is refused."""

import json
import struct
from typing import Any

import numpy as np
import pytest

from vlcompress.serve.decode import DecodedRequest, WantedOutput, decode_document, decode_request
from vlcompress.serve.refusal import Refusal
from vlcompress.serve.tensors import DATATYPES

EXACT = 2**53
"""The first whole number whose successor is no float64."""


def tensor(datatype: str, shape: list[int], data: Any = None, name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def raw_tensor(datatype: str, shape: list[int], size: int, name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def decoded(*inputs: dict[str, Any], raw: bytes | None = None, **more: Any) -> DecodedRequest:
    head = json.dumps({"inputs": inputs, **more}).encode()
    return decode_request(head + (raw or b""), None if raw is None else len(head))


def refused(*inputs: dict[str, Any], raw: bytes | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        decoded(*inputs, raw=raw)
    assert caught.value.status == 400
    return str(caught.value)


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BYTES", "FP16")])
def test_numbers_arrive_as_they_were_sent_flat_nested_and_raw(datatype: str) -> None:
    dtype = DATATYPES[datatype]  # type: ignore[index]
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    sent = values.astype(dtype.newbyteorder("<")).tobytes()
    for row, raw in (
        (tensor(datatype, [2, 3], values.tolist()), None),
        (tensor(datatype, [2, 3], values.ravel().tolist()), None),
        (raw_tensor(datatype, [2, 3], len(sent)), sent),
    ):
        found = decoded(row, raw=raw).inputs["x"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, values)


def test_raw_tensors_are_taken_in_the_order_of_the_inputs() -> None:
    first, second = np.array([258, -2], "<i2"), np.array([0.5, -3], "<f2")
    rows = (raw_tensor("INT16", [2], 4, "a"), raw_tensor("FP16", [1, 2], 4, "b"))
    found = decoded(*rows, raw=first.tobytes() + second.tobytes())
    assert found.inputs["a"].tolist() == [258, -2]
    assert found.inputs["b"].tolist() == [[0.5, -3]]
    assert found.datatypes == {"a": "INT16", "b": "FP16"}


def test_booleans_of_json_may_be_0_and_1() -> None:
    found = decoded(tensor("BOOL", [4], [0, 1, True, False])).inputs["x"]
    assert found.tolist() == [False, True, True, False]
    assert found.dtype == np.bool_


def test_text_arrives_as_utf_8_from_json_and_untouched_from_raw_bytes() -> None:
    assert decoded(tensor("BYTES", [2, 1], [["é"], [""]])).inputs["x"].tolist() == [["é".encode()], [b""]]
    values = [b"\xff\x00", b"", b"a" * 300, b""]
    raw = strings(*values)
    assert decoded(raw_tensor("BYTES", [4], len(raw)), raw=raw).inputs["x"].tolist() == values
    document = {"inputs": [tensor("BYTES", [1], [b"\xff"])]}  # as another protocol's contents hold it
    assert decode_document(document, lambda name, size: memoryview(b"")).inputs["x"].tolist() == [b"\xff"]


@pytest.mark.parametrize(
    "raw",
    [
        strings(b"a", b"b")[:-1],
        strings(b"a", b"b")[:-2],
        strings(b"a"),
        strings(b"a", b"b", b""),
        strings(b"a") + b"abc",
    ],
    ids=["cut", "a length without its byte", "one", "three", "no whole length"],
)
def test_raw_text_that_is_not_as_many_whole_strings_is_refused(raw: bytes) -> None:
    assert "does not hold 2 strings" in refused(raw_tensor("BYTES", [2], len(raw)), raw=raw)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (tensor("BYTES", [1], [1]), "its data must be strings"),
        (tensor("BOOL", [2], [True, 2]), "its data must be true or false"),
        (tensor("BOOL", [2], [True, -1]), "its data must be true or false"),
        (tensor("BOOL", [1], ["1"]), "its data must be true or false"),
        (tensor("FP16", [1], [1.0]), "FP16 can be sent as raw bytes only"),
        (tensor("INT64", [1]), "has no data"),
        (tensor("INT64", [2], [1, 2, 3]), "which its data does not have"),
        (tensor("INT64", [1], []), "which its data does not have"),
        (tensor("INT64", [2, 1], [[1], 2]), "which its data does not have"),
        (tensor("UINT8", [1], [256]), "outside the range of uint8"),
        (tensor("UINT8", [1], [256.0]), "outside the range of uint8"),
        (tensor("FP32", [1], [3.5e38]), "not finite as float32"),
        (tensor("INT64", [1], [float(EXACT + 2)]), "too large to be exact"),
        (tensor("INT64", [1], [-float(EXACT + 2)]), "too large to be exact"),
    ],
)
def test_json_that_is_no_tensor_of_its_type_is_refused(row: dict[str, Any], says: str) -> None:
    assert says in refused(row)


def test_infinity_of_another_protocol_is_out_of_every_integers_range() -> None:
    document = {"inputs": [tensor("INT64", [1], [float("inf")])]}
    with pytest.raises(Refusal, match="outside the range of int64"):
        decode_document(document, lambda name, size: memoryview(b""))


def test_half_an_emoji_of_another_protocol_is_refused() -> None:
    with pytest.raises(Refusal, match="not Unicode text"):
        decode_document({"inputs": [tensor("BYTES", [1], ["\ud83d"])]}, lambda name, size: memoryview(b""))


def test_whole_floats_are_whole_numbers_up_to_the_largest_exact_one() -> None:
    found = decoded(tensor("INT64", [3], [1.0, float(EXACT), -float(EXACT)])).inputs["x"]
    assert found.tolist() == [1, EXACT, -EXACT]
    assert found.dtype == np.int64


def test_raw_bytes_are_neither_infinite_nor_another_boolean() -> None:
    for bits in (np.array([1, np.inf], "<f8"), np.array([np.nan, 1], "<f2")):
        datatype = {8: "FP64", 2: "FP16"}[bits.itemsize]
        assert "not finite" in refused(raw_tensor(datatype, [2], bits.nbytes), raw=bits.tobytes())
    assert "must be 0 or 1" in refused(raw_tensor("BOOL", [2], 2), raw=b"\x01\x02")


def test_data_and_raw_bytes_together_are_refused_even_where_data_is_null() -> None:
    assert "both data and binary_data_size" in refused({**raw_tensor("INT8", [1], 1), "data": None}, raw=b"\x01")


def test_lengths_of_the_json_and_of_the_body() -> None:
    body = json.dumps({"inputs": [tensor("INT8", [1], [1])]}).encode()
    assert decode_request(body, len(body)).inputs["x"].tolist() == [1]
    with pytest.raises(Refusal, match=f"{len(body) + 1} is more than the body's {len(body)} bytes"):
        decode_request(body, len(body) + 1)
    with pytest.raises(Refusal, match="1 bytes of the body belong to no input"):
        decode_request(body + b" ", len(body))


def test_what_is_asked_for_beside_the_tensors() -> None:
    row = tensor("INT8", [1], [1])
    plain = decoded(row, outputs=[], parameters={"timeout": 0})
    assert (plain.id, plain.outputs, plain.binary, plain.timeout_us) == ("", None, False, None)
    outputs = [
        {"name": "a"},
        {"name": "b", "parameters": {"binary_data": False}},
        {"name": "c", "parameters": {"classification": 3}},
    ]
    full = decoded(row, id="7", outputs=outputs, parameters={"binary_data_output": True, "timeout": 5})
    assert (full.id, full.binary, full.timeout_us) == ("7", True, 5)
    assert full.outputs == (WantedOutput("a", True), WantedOutput("b", False), WantedOutput("c", True, 3))
    assert decoded(row, outputs=[{"name": "a"}]).outputs == (WantedOutput("a", False, 0),)

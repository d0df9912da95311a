"""NVIDIA's own client against a real server: every call, JSON and binary, compressed both ways."""

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.serve.conftest import LABELS, TYPES, expected_words

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False], "UINT8": [0, 255], "UINT16": [0, 65535], "UINT32": [0, 2**32 - 1], "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127], "INT16": [-(2**15), 2**15 - 1], "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1], "FP16": [-0.5, 65504.0], "FP32": [-1e-30, 3e38], "FP64": [-1e-300, 1e308],
    "BYTES": [b"", "Zürich ✓".encode()],
}  # fmt: skip


@pytest.fixture
def client(address: str) -> Any:
    return triton.InferenceServerClient(address)


def words(ids: list[list[int]], binary: bool) -> list[Any]:
    tensors = []
    for name, values in {"input_ids": np.array(ids), "attention_mask": np.ones_like(ids)}.items():
        tensor = triton.InferInput(name, list(values.shape), "INT64")
        tensors.append(tensor.set_data_from_numpy(values, binary_data=binary))
    return tensors


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("words")
    assert client.is_model_ready("words", "1")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "vlcompress"
    assert client.get_model_metadata("words", "2")["versions"] == ["1", "2"]
    assert client.get_model_config("words")["max_batch_size"] == 32
    assert {row["name"] for row in client.get_model_repository_index()} == {"words", "types", "log"}
    assert client.get_inference_statistics("words")["model_stats"][0]["name"] == "words"
    assert len(client.get_inference_statistics()["model_stats"]) == 4


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: Any, binary: bool, compression: str | None) -> None:
    ids = [[1, 2, 3], [4, 5, 6]]
    outputs = [triton.InferRequestedOutput("logits", binary_data=binary)]
    found = client.infer(
        "words",
        words(ids, binary),
        outputs=outputs,
        request_id="r1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_allclose(found.as_numpy("logits"), expected_words(ids), rtol=1e-6)
    assert found.get_response()["id"] == "r1"


def test_infer_without_naming_outputs_and_by_version(client: Any) -> None:
    found = client.infer("words", words([[7]], binary=True), model_version="1")
    np.testing.assert_allclose(found.as_numpy("logits"), expected_words([[7]], 1.0), rtol=1e-6)


def test_large_responses_are_compressed_when_asked_for(client: Any) -> None:
    ids = [[index % 50] for index in range(32)]
    outputs = [triton.InferRequestedOutput("logits", binary_data=False)]
    found = client.infer("words", words(ids, True), outputs=outputs, response_compression_algorithm="gzip")
    np.testing.assert_allclose(found.as_numpy("logits"), expected_words(ids), rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_every_datatype_comes_back_as_it_was_sent(client: Any, binary: bool) -> None:
    tensors, outputs, sent = [], [], {}
    for name in TYPES:
        dtype = np.object_ if name == "BYTES" else triton_to_np_dtype(name)
        sent[name] = np.array([VALUES[name]] * 3, dtype=dtype)
        raw = binary or name == "FP16"  # FP16 has no JSON form
        tensors.append(triton.InferInput(f"in_{name}", [3, 2], name).set_data_from_numpy(sent[name], binary_data=raw))
        outputs.append(triton.InferRequestedOutput(f"out_{name}", binary_data=raw))
    found = client.infer("types", tensors, outputs=outputs)
    for name, values in sent.items():
        got = found.as_numpy(f"out_{name}")
        if name == "BYTES" and not binary:
            got = np.array([[text.encode() for text in row] for row in got], dtype=np.object_)
        np.testing.assert_array_equal(got, values, err_msg=name)


def test_fp16_in_json_is_refused_both_ways(client: Any) -> None:
    half = np.zeros((1, 2), np.float16)
    tensors = [triton.InferInput(f"in_{name}", [1, 2], name) for name in TYPES]
    for tensor in tensors:
        name = tensor.datatype()
        values = np.array([VALUES[name]], dtype=np.object_ if name == "BYTES" else triton_to_np_dtype(name))
        tensor.set_data_from_numpy(half if name == "FP16" else values)
    with pytest.raises(InferenceServerException, match="FP16, which has no JSON form"):
        client.infer("types", tensors, outputs=[triton.InferRequestedOutput("out_FP16", binary_data=False)])


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_classification(client: Any, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=3)]
    rows = client.infer("words", words([[1], [2]], True), outputs=outputs).as_numpy("logits")
    assert rows.shape == (2, 3)
    for row, scores in zip(rows, expected_words([[1], [2]]), strict=True):
        texts = [text.decode() if isinstance(text, bytes) else text for text in row]
        assert [int(text.split(":")[1]) for text in texts] == list(np.argsort(-scores)[:3])
        assert texts[0].split(":")[2] == f"answer {scores.argmax()}"


def test_more_classes_than_there_are_gives_all(client: Any) -> None:
    outputs = [triton.InferRequestedOutput("logits", class_count=99)]
    assert client.infer("words", words([[1]], True), outputs=outputs).as_numpy("logits").shape == (1, LABELS)


def test_errors_carry_status_and_text(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"unknown model: 'nope'") as caught:
        client.infer("nope", words([[1]], True))
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="expected 2 inputs but got 1") as caught:
        client.infer("words", words([[1]], True)[:1])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="not loaded or unloaded over HTTP"):
        client.load_model("words")


def test_asynchronous_calls(client: Any, address: str) -> None:
    pending = [client.async_infer("words", words([[index]], True)) for index in range(5)]
    for index, request in enumerate(pending):
        np.testing.assert_allclose(request.get_result().as_numpy("logits"), expected_words([[index]]), rtol=1e-6)

    async def many() -> list[Any]:
        async with aio.InferenceServerClient(address) as other:
            assert await other.is_server_ready()
            calls = [other.infer("words", words([[index, 1]], True)) for index in range(20)]
            return [found.as_numpy("logits") for found in await asyncio.gather(*calls)]

    for index, got in enumerate(asyncio.run(many())):
        np.testing.assert_allclose(got, expected_words([[index, 1]]), rtol=1e-6)

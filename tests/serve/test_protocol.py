"""The protocol over JSON: what is answered, and how wrong requests are told what is wrong."""

import json
from typing import Any

import numpy as np
import pytest

from tests.serve.conftest import LABELS, VOCABULARY, Client, expected_words, words_request

INFER = "/v2/models/words/infer"


def test_metadata_of_the_server_with_and_without_a_slash(client: Client) -> None:
    for path in ("/v2", "/v2/"):
        found = client.get(path).json()
        assert found["name"] == "vlcompress"
        assert {"binary_tensor_data", "classification"} <= set(found["extensions"])


def test_health(client: Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/words/ready", "/v2/models/words/versions/1/ready"):
        assert client.get(path).status_code == 200


def test_metadata_of_a_model_lists_every_version_and_open_axes(client: Client) -> None:
    found = client.get("/v2/models/words").json()
    assert found["versions"] == ["1", "2"]
    assert found["platform"] == "onnx_onnxv1"
    assert found["inputs"][0] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, LABELS]}]


def test_config_has_tritons_words(client: Client) -> None:
    found = client.get("/v2/models/words/config").json()
    assert found["max_batch_size"] == 32
    assert found["input"][0] == {"name": "input_ids", "data_type": "TYPE_INT64", "dims": [-1]}
    policy = found["dynamic_batching"]["default_queue_policy"]
    assert (policy["max_queue_size"], policy["default_timeout_microseconds"]) == (256, 2_000_000)


@pytest.mark.parametrize(("version", "scale"), [("", 2.0), ("/versions/1", 1.0), ("/versions/2", 2.0)])
def test_infer_answers_by_the_version_that_is_asked_for(client: Client, version: str, scale: float) -> None:
    ids = [[1, 2, 3], [4, 5, 6]]
    found = client.post(f"/v2/models/words{version}/infer", json=words_request(ids, id="seven")).json()
    (output,) = found["outputs"]
    assert (found["model_name"], found["id"]) == ("words", "seven")
    assert found["model_version"] == ("1" if scale == 1.0 else "2")
    assert output["shape"] == [2, LABELS]
    np.testing.assert_allclose(np.reshape(output["data"], (2, LABELS)), expected_words(ids, scale), rtol=1e-6)


def test_data_may_be_flat_and_whole_numbers_may_be_floats(client: Client) -> None:
    request = words_request([[1, 2], [3, 4]])
    for tensor in request["inputs"]:
        tensor["data"] = [float(value) for row in tensor["data"] for value in row]
    found = client.post(INFER, json=request).json()
    expected = expected_words([[1, 2], [3, 4]]).ravel()
    np.testing.assert_allclose(found["outputs"][0]["data"], expected, rtol=1e-6)


def test_classification_gives_value_index_and_label(client: Client) -> None:
    request = words_request([[1, 2]], outputs=[{"name": "logits", "parameters": {"classification": 2}}])
    (output,) = client.post(INFER, json=request).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    best = np.argsort(-expected_words([[1, 2]])[0])[:2]
    for text, index in zip(output["data"], best, strict=True):
        value, found, label = text.split(":")
        assert (int(found), label) == (index, f"answer {index}")
        assert float(value) == pytest.approx(expected_words([[1, 2]])[0][index], abs=1e-5)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v2/models/nope", "Request for unknown model: 'nope' is not found"),
        ("/v2/models/words/versions/9", "'words' version 9 is not found"),
        ("/v2/models/words/versions/%EF%BC%91x", "is not found"),
        ("/v2/models/nope/ready", "'nope' is not found"),
        ("/v2/nothing", "Not Found"),
    ],
)
def test_unknown_things_are_404(client: Client, path: str, says: str) -> None:
    found = client.get(path)
    assert found.status_code == 404
    assert says in found.json()["error"]


def test_wrong_method_is_405_and_says_so_in_the_protocols_form(client: Client) -> None:
    found = client.get(INFER)
    assert found.status_code == 405
    assert "Method Not Allowed" in found.json()["error"]
    assert found.headers["allow"] == "POST"


def changed(**changes: Any) -> dict[str, Any]:
    """Change the first input of a good request."""
    request = words_request([[1, 2], [3, 4]])
    request["inputs"][0] = {**request["inputs"][0], **changes}
    return request


def flat(*values: Any) -> dict[str, Any]:
    return changed(data=list(values))


WRONG = {
    "missing input": ({"inputs": words_request([[1]])["inputs"][:1]}, "expected 2 inputs but got 1"),
    "extra input": (
        {"inputs": [*words_request([[1]])["inputs"], {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}]},
        "unexpected inference input 'x'",
    ),
    "input twice": ({"inputs": [words_request([[1]])["inputs"][0]] * 2}, "given twice"),
    "no inputs": ({"inputs": []}, "'inputs' of request is missing"),
    "inputs missing": ({}, "'inputs' of request is missing"),
    "datatype of another": (changed(datatype="INT32"), "is INT32: the model takes INT64"),
    "datatype unknown": (changed(datatype="FLOAT"), "allowed are BOOL"),
    "datatype not text": (changed(datatype=[]), "allowed are BOOL"),
    "rank": (
        changed(shape=[4], data=[1, 2, 3, 4]),
        "unexpected shape for input 'input_ids': expected [-1, -1], got [4]",
    ),
    "no shape": (changed(shape=None), "'shape' of input 'input_ids' is missing"),
    "shape of text": (changed(shape=["2", 2]), "give a list of whole numbers"),
    "shape of booleans": (changed(shape=[True, 2]), "give a list of whole numbers"),
    "shape zero": (changed(shape=[0, 2], data=[]), "every size must be 1 or more"),
    "shape negative": (changed(shape=[-2, -2]), "every size must be 1 or more"),
    "shape huge": (changed(shape=[2**62, 2**62]), "which its data does not have"),
    "shape unlike data": (changed(shape=[2, 3]), "which its data does not have"),
    "ragged": (changed(data=[[1, 2], [3]]), "which its data does not have"),
    "nested too deep": (changed(data=[[[1], [2]], [[3], [4]]]), "not a number"),
    "batches differ": (changed(shape=[1, 2], data=[[1, 2]]), "another input has"),
    "texts differ": (changed(shape=[2, 1], data=[[1], [2]]), "another input has"),
    "batch too large": (words_request([[1]] * 33), "size 33 of axis 'batch' is too large: at most 32"),
    "axis too long": (words_request([[1] * 1025]), "size 1025 of axis 'text' is too large: at most 1024"),
    "text in numbers": (flat(1, 2, 3, "4"), "not a number"),
    "null in numbers": (flat(1, 2, 3, None), "not a number"),
    "true in numbers": (flat(1, 2, 3, True), "not a number"),
    "half": (flat(1, 2, 3, 1.5), "not whole"),
    "beyond int64": (flat(1, 2, 3, 2**63), "outside the range of int64"),
    "beyond every integer": (flat(1, 2, 3, 10**40), "too large to be exact"),
    "beyond exact floats": (flat(1, 2, 3, 1e300), "not whole, or too large"),
    "id too high": (flat(1, 2, 3, VOCABULARY), f"holds {VOCABULARY}: values 0 to {VOCABULARY - 1} are allowed"),
    "id negative": (flat(1, 2, 3, -1), "holds -1"),
    "unknown output": (words_request([[1]], outputs=[{"name": "nope"}]), "unexpected inference output 'nope'"),
    "output twice": (words_request([[1]], outputs=[{"name": "logits"}] * 2), "asked for twice"),
    "classes of text": (
        words_request([[1]], outputs=[{"name": "logits", "parameters": {"classification": "2"}}]),
        "give the number of classes",
    ),
    "shared memory": (changed(parameters={"shared_memory_region": "x"}), "'shared_memory_region' is not offered"),
    "sequence": (words_request([[1]], parameters={"sequence_id": 3}), "'sequence_id' is not offered"),
    "timeout of text": (words_request([[1]], parameters={"timeout": "1"}), "give microseconds"),
    "id not text": (words_request([[1]], id=7), "'id' of request is 7: give a string"),
    "binary size without binary": (changed(parameters={"binary_data_size": 32}), "both data and binary_data_size"),
    "request is a list": ([1], "is a list: an object was expected"),
}


@pytest.mark.parametrize(("request_json", "says"), WRONG.values(), ids=list(WRONG))
def test_wrong_requests_are_400_and_say_what_is_wrong(client: Client, request_json: Any, says: str) -> None:
    found = client.post(INFER, json=request_json)
    assert found.status_code == 400, found.text
    assert says in found.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b'{"inputs": NaN}', b"\xff\xfe{}", b'"\xc3\x28"', b"[" * 100_000, b'{"id": 1e999}'],
    ids=["empty", "cut", "words", "nan", "utf-16", "bad utf-8", "deep", "infinite"],
)
def test_broken_json_is_400(client: Client, body: bytes) -> None:
    found = client.post(INFER, content=body)
    assert found.status_code == 400
    assert found.json()["error"]


def test_a_long_value_is_not_sent_back(client: Client) -> None:
    found = client.post(INFER, json=changed(name="x" * 10_000))
    assert found.status_code == 400
    assert len(found.text) < 400


def test_numbers_that_are_not_finite_are_refused_and_never_sent(client: Client) -> None:
    def ask(data: str) -> Any:
        body = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, ' + data + "]}]}"
        return client.post("/v2/models/log/infer", content=body)

    assert ask("2.5").status_code == 200
    assert ask("1e999").status_code == 400
    assert ask("1e39").status_code == 400  # finite in JSON, not as float32
    failed = ask("-1")
    assert failed.status_code == 400
    assert "not finite in output 'y'" in failed.json()["error"]
    assert ask("0").status_code == 400  # log(0) is minus infinity


def test_statistics_count_what_was_done(client: Client) -> None:
    def stats() -> Any:
        (row,) = client.get("/v2/models/words/versions/1/stats").json()["model_stats"]
        return row

    before = stats()
    assert client.post("/v2/models/words/versions/1/infer", json=words_request([[1], [2]])).status_code == 200
    assert client.post("/v2/models/words/versions/1/infer", json=changed(datatype="FP32")).status_code == 400
    after = stats()
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["execution_count"] == before["execution_count"] + 1
    for outcome in ("success", "fail"):
        counts = [row["inference_stats"][outcome]["count"] for row in (before, after)]
        assert counts[1] == counts[0] + 1
    assert {row["name"] for row in client.get("/v2/models/stats").json()["model_stats"]} == {"words", "types", "log"}


def test_repository_index_and_no_loading_by_url(client: Client) -> None:
    rows = client.post("/v2/repository/index", json={}).json()
    assert {"name": "words", "version": "2", "state": "READY", "reason": ""} in rows
    assert client.post("/v2/repository/index").status_code == 200
    assert client.post("/v2/repository/index", json={"ready": 1}).status_code == 400
    for action in ("load", "unload"):
        found = client.post(f"/v2/repository/models/words/{action}", json={})
        assert found.status_code == 400
        assert "not loaded or unloaded over HTTP" in found.json()["error"]


def test_request_id_is_echoed_if_it_is_safe(client: Client) -> None:
    assert client.get("/v2", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = client.get("/v2", headers={"X-Request-Id": 'a"b{}'}).headers["x-request-id"]
    assert made.isalnum()
    assert json.loads(client.get("/v2").text)

"""The protocol over gRPC: NVIDIA's clients, every datatype both ways, and HTTP's refusals, token, log and limits."""

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.serve.conftest import LABELS, TYPES, expected_words, running, settings_of
from tests.serve.test_server import _until as until
from tests.serve.test_server import slow
from tests.serve.test_tritonclient import VALUES
from vlcompress.errors import VlcompressError
from vlcompress.serve import decode_grpc, messages
from vlcompress.serve.decode_grpc import CONTENTS, decode_call
from vlcompress.serve.logs import JsonFormatter
from vlcompress.serve.refusal import Refusal
from vlcompress.serve.run import run
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.start import serve
from vlcompress.serve.tracing import Tracer

INFER = "/inference.GRPCInferenceService/ModelInfer"
Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    """The gRPC address of a real server with all test models."""
    with running(settings_of(models, grpc_port=0, max_body_bytes=100_000, max_inflated_bytes=150_000)) as (_, server):
        yield f"127.0.0.1:{server.grpc_port}"


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as found:
        yield found


def words(ids: list[list[int]]) -> list[Any]:
    tensors = []
    for name, values in {"input_ids": np.array(ids), "attention_mask": np.ones_like(ids)}.items():
        tensors.append(triton.InferInput(name, list(values.shape), "INT64").set_data_from_numpy(values))
    return tensors


def typed_words(ids: list[list[int]], **more: Any) -> Any:
    """Make a request whose tensors are typed lists."""
    request = service_pb2.ModelInferRequest(model_name="words", **more)
    for name, values in {"input_ids": ids, "attention_mask": np.ones_like(ids).tolist()}.items():
        contents = service_pb2.InferTensorContents(int64_contents=[one for row in values for one in row])
        request.inputs.add(name=name, datatype="INT64", shape=np.shape(ids), contents=contents)
    return request


def call(address: str, request: Any, path: str = INFER, **more: Any) -> Any:
    """Call a method with a message or with bytes; give an infer response."""
    with grpc.insecure_channel(address) as channel:
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        answer = channel.unary_unary(path)(raw, timeout=10, **more)
    return service_pb2.ModelInferResponse.FromString(answer)


def refused(address: str, request: Any, path: str = INFER, **more: Any) -> tuple[str, str]:
    """Call a method that must be refused; give the status and the sentence."""
    with pytest.raises(grpc.RpcError) as caught:
        call(address, request, path, **more)
    return caught.value.code().name, caught.value.details()


def test_messages_are_those_of_the_public_protocol() -> None:
    for name in messages.INFERENCE:
        public = service_pb2.DESCRIPTOR.message_types_by_name[name.split(".")[0]]
        for inner in name.split(".")[1:]:
            public = public.nested_types_by_name[inner]
        own = messages.message_class("inference", name).DESCRIPTOR
        assert _fields(own) == _fields(public), name


def _fields(descriptor: Any) -> dict[str, Any]:
    found = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(found)
    return {
        one.name: (one.number, one.type, one.label, one.HasField("oneof_index"), one.type_name) for one in found.field
    }


def test_health_and_metadata(client: Any, address: str) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("words", "1")
    assert not client.is_model_ready("words", "9")
    assert client.get_server_metadata().name == "vlcompress"
    found = client.get_model_metadata("words", "2", as_json=True)
    assert (found["versions"], found["platform"]) == (["1", "2"], "onnx_onnxv1")
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", str(LABELS)]}]
    with grpc.insecure_channel(address) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"  # SERVING
    assert refused(address, b"\x0a\x01x", "/grpc.health.v1.Health/Check")[0] == "NOT_FOUND"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: Any, compression: str | None) -> None:
    ids = [[1, 2, 3], [4, 5, 6]]
    found = client.infer("words", words(ids), request_id="r1", compression_algorithm=compression)
    np.testing.assert_allclose(found.as_numpy("logits"), expected_words(ids), rtol=1e-6)
    assert (found.get_response().id, found.get_response().model_version) == ("r1", "2")
    first = client.infer("words", words(ids), model_version="1").as_numpy("logits")
    np.testing.assert_allclose(first, expected_words(ids, 1.0), rtol=1e-6)


def test_asynchronous_calls_share_executions_and_keep_apart(address: str) -> None:
    async def many() -> list[Any]:
        async with aio.InferenceServerClient(address) as other:
            assert await other.is_server_ready()
            return await asyncio.gather(*[other.infer("words", words([[index, 1]])) for index in range(20)])

    for index, found in enumerate(asyncio.run(many())):
        np.testing.assert_allclose(found.as_numpy("logits"), expected_words([[index, 1]]), rtol=1e-6)


def of_types(raw: bool) -> tuple[Any, dict[str, Any]]:
    """Make a request with one tensor of every datatype that can be sent so; give its values too."""
    request, sent = service_pb2.ModelInferRequest(model_name="types"), {}
    for name in TYPES if raw else CONTENTS:
        dtype = np.object_ if name == "BYTES" else triton_to_np_dtype(name)
        sent[name] = np.array([VALUES[name]] * 3, dtype=dtype)
        message = request.inputs.add(name=f"in_{name}", datatype=name, shape=[3, 2])
        if raw:
            tensor = triton.InferInput(f"in_{name}", [3, 2], name).set_data_from_numpy(sent[name])
            request.raw_input_contents.append(tensor._get_content())
        else:
            getattr(message.contents, CONTENTS[name]).extend(sent[name].ravel().tolist())
    return request, sent


def test_every_datatype_comes_back_as_it_was_sent(address: str) -> None:
    request, sent = of_types(raw=True)
    found = triton.InferResult(call(address, request))
    for name, values in sent.items():
        np.testing.assert_array_equal(found.as_numpy(f"out_{name}"), values, err_msg=name)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_every_datatype_is_read_as_it_was_sent(raw: bool) -> None:
    request, sent = of_types(raw)
    found = decode_call(request)
    for name, values in sent.items():
        np.testing.assert_array_equal(found.inputs[f"in_{name}"], values, err_msg=name)
        assert found.inputs[f"in_{name}"].dtype == values.dtype


def test_plain_calls_are_read_as_all_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [of_types(raw=True)[0], typed_words([[1]])]
    for change in (
        lambda r: r.inputs[0].shape.append(1), lambda r: r.inputs[0].shape.__setitem__(0, 0),
        lambda r: setattr(r.inputs[0], "name", "x" * 201), lambda r: setattr(r.inputs[0], "datatype", "X"),
        lambda r: r.inputs[0].ClearField("shape"), lambda r: r.inputs[0].shape.extend([1] * 20),
        lambda r: setattr(r.inputs[1], "name", r.inputs[0].name), lambda r: r.raw_input_contents.pop(),
        lambda r: r.raw_input_contents.__setitem__(0, b"1"), lambda r: r.outputs.add(name="out_BOOL"),
        lambda r: setattr(r, "id", "r1"), lambda r: r.parameters["timeout"].CopyFrom(_text("soon")),
        lambda r: r.inputs[0].parameters["shared_memory_region"].CopyFrom(_text("x")),
        lambda r: r.inputs[0].contents.bool_contents.append(True),
    ):  # fmt: skip
        requests.append(of_types(raw=True)[0])
        change(requests[-1])
    plain = [_read(request) for request in requests]
    monkeypatch.setattr(decode_grpc, "_plain", lambda request: None)
    assert plain == [_read(request) for request in requests]
    assert len({str(one) for one in plain}) > 10


def _read(request: Any) -> Any:
    try:
        found = decode_call(request)
    except Refusal as refusal:
        return str(refusal)
    tensors = {name: (array.tolist(), array.dtype, array.shape) for name, array in found.inputs.items()}
    return found.id, tensors, found.datatypes, found.outputs, found.binary, found.timeout_us


def test_numbers_that_a_datatype_cannot_hold_are_refused() -> None:
    request = service_pb2.ModelInferRequest(model_name="types")
    request.inputs.add(name="x", datatype="INT8", shape=[1]).contents.int_contents.append(300)
    with pytest.raises(Refusal, match="outside the range of int8"):
        decode_call(request)
    request.inputs[0].CopyFrom(service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1]))
    request.inputs[0].contents.fp32_contents.append(float("nan"))
    with pytest.raises(Refusal, match="not finite"):
        decode_call(request)


def test_typed_tensors(address: str) -> None:
    found = triton.InferResult(call(address, typed_words([[1, 2], [3, 4]])))
    np.testing.assert_allclose(found.as_numpy("logits"), expected_words([[1, 2], [3, 4]]), rtol=1e-6)


def test_classification(client: Any) -> None:
    outputs = [triton.InferRequestedOutput("logits", class_count=3)]
    (row,) = client.infer("words", words([[1]]), outputs=outputs).as_numpy("logits")
    scores = expected_words([[1]])[0]
    assert [int(text.split(b":")[1]) for text in row] == list(np.argsort(-scores)[:3])
    assert row[0].split(b":")[2] == f"answer {scores.argmax()}".encode()


def _wrong(change: Callable[[Any], object]) -> Any:
    request = typed_words([[1, 2]])
    change(request)
    return request


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.inputs.pop(), "expected 2 inputs but got 1: missing are attention_mask"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP32"), "has int64_contents: FP32 is not sent so: fill fp32"),
        (lambda r: setattr(r.inputs[0], "datatype", "BF16"), "BF16 is not sent so: fill raw_input"),
        (lambda r: setattr(r.inputs[0], "name", ""), "'name' of input '' is missing"),
        (lambda r: r.inputs[0].shape.append(-1), "every size must be 1 or more"),
        (lambda r: r.inputs[0].shape.append(2**62), "which its data does not have"),
        (lambda r: r.inputs[0].ClearField("contents"), "'input_ids' has no data"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(1), "fill int64_contents, or raw"),
        (lambda r: r.raw_input_contents.append(b"1"), "raw_input_contents has 1 tensors"),
        (lambda r: r.raw_input_contents.extend([b"1", b"2"]), "has both int64_contents and raw"),
        (lambda r: r.outputs.add(name="nope"), "unexpected inference output 'nope'"),
        (lambda r: r.inputs[0].contents.int64_contents.__setitem__(0, 99), "values 0 to 49"),
        (lambda r: r.parameters["timeout"].CopyFrom(_text("soon")), "'timeout' of request is soon"),
        (lambda r: r.inputs[0].parameters["shared_memory_region"].CopyFrom(_text("x")), "not offered"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_the_sentence_of_http(address: str, change: Any, says: str) -> None:
    code, text = refused(address, _wrong(change))
    assert code == "INVALID_ARGUMENT"
    assert says in text
    assert refused(address, typed_words([[1]], model_version="9"))[0] == "NOT_FOUND"


def _text(value: str) -> Any:
    return service_pb2.InferParameter(string_param=value)


def test_what_is_no_message_is_the_clients_mistake(address: str) -> None:
    code, text = refused(address, b"\xff\xff\xff")
    assert (code, text[:47]) == ("INVALID_ARGUMENT", "the request is not a inference.ModelInferReques")


def test_a_request_that_is_too_large_is_refused(address: str) -> None:
    request = typed_words([[1]], id="x" * 200_000)
    code, text = refused(address, request)
    assert code == "RESOURCE_EXHAUSTED"
    assert "100000" in text
    code, _ = refused(address, request, compression=grpc.Compression.Gzip)  # small as sent, too large inflated
    assert code == "RESOURCE_EXHAUSTED"


def test_streaming_and_control_are_refused_clearly(client: Any, address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as caught:
            next(stream(iter([typed_words([[1]]).SerializeToString()])))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "call ServerLive, ServerReady" in caught.value.details()
    with pytest.raises(InferenceServerException, match="not offered over gRPC"):
        client.load_model("words")


def test_the_token_is_asked_for_as_over_http(settings: Make) -> None:
    with running(settings(token="s3cret", grpc_port=0)) as (_, server):
        address = f"127.0.0.1:{server.grpc_port}"
        with triton.InferenceServerClient(address) as client:
            assert client.is_server_ready()
        code, text = refused(address, typed_words([[1]]))
        assert (code, text) == ("UNAUTHENTICATED", "a valid token is needed: send 'Authorization: Bearer TOKEN'")
        call(address, typed_words([[1]]), metadata=(("authorization", "Bearer s3cret"),))


def test_calls_are_counted_logged_and_traced_as_requests(settings: Make, caplog: pytest.LogCaptureFixture) -> None:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    with running(settings(grpc_port=0)) as (http, server), caplog.at_level(logging.INFO, "vlcompress.serve"):
        state = server.config.app.state.server  # type: ignore[union-attr]
        state.tracer = Tracer(exporter)
        address = f"127.0.0.1:{server.grpc_port}"
        parent = ("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01")
        call(address, typed_words([[1], [2]]), metadata=(("x-request-id", "r-7"), parent))
        refused(address, typed_words([[99]]), metadata=(("x-request-id", "r-8"),))
        text = httpx.get(f"http://{http}/metrics").text
        state.tracer.close()
    assert 'vlcompress_requests_total{code="200",model="words",version="2"} 1.0' in text
    assert 'vlcompress_requests_total{code="400",model="words",version="2"} 1.0' in text
    good, bad = (json.loads(JsonFormatter().format(one)) for one in caplog.records if one.message == "request")
    assert (good["method"], good["path"], good["request_id"], good["rows"]) == ("gRPC", INFER, "r-7", 2)
    assert (bad["request_id"], bad["status"], bad["reason"]) == ("r-8", 400, "invalid")
    span = exporter.get_finished_spans()[0]
    assert (span.name, format(span.context.trace_id, "032x")) == ("gRPC ModelInfer", "ab" * 16)


def test_too_much_to_do_is_unavailable_and_both_protocols_share_the_queue(settings: Make) -> None:
    with running(settings(max_batch=1, queue_rows=1, grpc_port=0)) as (http, server):
        slow(server.config.app, 0.5)
        address = f"127.0.0.1:{server.grpc_port}"
        with grpc.insecure_channel(address) as channel:
            method = channel.unary_unary(INFER)
            first = [method.future(typed_words([[1]]).SerializeToString()) for _ in range(2)]
            batcher = server.config.app.state.server.repository.get("words").batcher  # type: ignore[union-attr]
            until(lambda: batcher.full)
            assert httpx.post(f"http://{http}/v2/models/words/infer", json={}).status_code == 503
            with pytest.raises(grpc.RpcError) as caught:
                method(typed_words([[1]]).SerializeToString())
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "Exceeds maximum queue size"
            assert ("retry-after", "1") in [tuple(pair) for pair in caught.value.trailing_metadata()]
            assert all(one.result() for one in first)


def test_a_client_that_gives_up_is_dropped_from_the_queue(settings: Make) -> None:
    with running(settings(max_batch=1, grpc_port=0)) as (_, server):
        slow(server.config.app, 0.3)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            method = channel.unary_unary(INFER)
            calls = [method.future(typed_words([[1]]).SerializeToString()) for _ in range(3)]
            batcher = server.config.app.state.server.repository.get("words").batcher  # type: ignore[union-attr]
            until(lambda: batcher.waiting_rows == 2)
            for one in calls[1:]:
                one.cancel()
            until(lambda: batcher.waiting_rows == 0)
            assert calls[0].result()


def test_a_clients_own_deadline_is_the_requests() -> None:
    request = typed_words([[1]])
    assert decode_call(request).timeout_us is None
    assert decode_call(request, 0.5).timeout_us == 500_000
    request.parameters["timeout"].int64_param = 20_000
    assert decode_call(request, 0.5).timeout_us == 20_000
    assert decode_call(request, 0.01).timeout_us == 10_000


def test_draining_fails_readiness_and_answers_what_is_in_flight(settings: Make) -> None:
    with running(settings(grpc_port=0, drain_seconds=0.3)) as (_, server):
        slow(server.config.app, 0.6)
        address = f"127.0.0.1:{server.grpc_port}"
        with triton.InferenceServerClient(address) as client, grpc.insecure_channel(address) as channel:
            pending = channel.unary_unary(INFER).future(typed_words([[1]]).SerializeToString())
            until(lambda: server.config.app.state.server.repository.get("words").batcher.busy)  # type: ignore[union-attr]
            server.handle_exit(signal.SIGTERM, None)
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert pending.result()


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(settings: Make) -> None:
    with running(settings(grpc_port=0)) as (_, server), pytest.raises(VlcompressError, match="or --grpc-port"):
        run(settings(models=(ModelSpec("none", Path("missing")),), grpc_port=server.grpc_port))


def test_ray_has_no_grpc_port(models: Path, tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="--grpc-port is for one process"):
        serve([str(models / "words")], home=tmp_path, announce=print, engine="ray", grpc_port=0)

"""Around the models: token, metrics, logs, clients that leave, too much to do, and an end that loses nothing."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Client, running, words_request
from vlcompress.errors import VlcompressError
from vlcompress.serve.app import create_app
from vlcompress.serve.auth import check_token
from vlcompress.serve.logs import BackgroundHandler, JsonFormatter
from vlcompress.serve.refusal import Refusal
from vlcompress.serve.run import bound
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.tracing import Tracer

INFER = "/v2/models/words/infer"
Make = Callable[..., Settings]


def slow(app: Any, seconds: float) -> None:
    """Make every execution of the newest version of the model of words take longer."""
    app.state.server.load()
    engine = app.state.server.repository.get("words").engine
    run = engine.run

    def slowly(feeds: Any) -> Any:
        time.sleep(seconds)
        return run(feeds)

    engine.run = slowly


def test_without_the_token_only_health_and_the_page_answer(settings: Make) -> None:
    client = Client(create_app(settings(token="s3cret")))
    for path in ("/v2/health/live", "/v2/health/ready", "/", "/openapi.json"):
        assert client.get(path).status_code == 200
    for path in ("/v2", "/v2/models/words", "/v1", "/metrics", "/nope"):
        found = client.get(path)
        assert found.status_code == 401, path
        assert found.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer TOKEN" in found.json()["error"]
        assert client.get(path, headers={"Authorization": "Bearer s3cret"}).status_code != 401


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer \udce9"]
)
def test_wrong_tokens(header: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_token("/v2", header, "s3cret")
    assert caught.value.status == 401


def test_the_token_is_not_in_the_settings_text(settings: Make) -> None:
    assert "s3cret" not in repr(settings(token="s3cret"))


def test_scripts_of_the_given_origins_may_ask_and_no_others(settings: Make) -> None:
    client = Client(create_app(settings(cors=("https://app.example",), token="s3cret")))
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, status in (("https://app.example", 200), ("https://evil.example", 400)):
        found = client.call("OPTIONS", INFER, headers={"Origin": origin, **asks})
        assert found.status_code == status
        assert found.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
    refused = client.post(INFER, json={}, headers={"Origin": "https://app.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")
    plain = Client(create_app(settings())).get("/v2", headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in plain.headers


def test_a_prefix_may_precede_every_path(settings: Make) -> None:
    client = Client(create_app(settings(prefix="/vqa", token="s3cret")))
    token = {"Authorization": "Bearer s3cret"}
    for path in ("/vqa/v2/health/ready", "/v2/health/ready", "/vqa/"):  # a proxy may take it away, or not
        assert client.get(path).status_code == 200
    assert client.post(f"/vqa{INFER}", json=words_request([[1]])).status_code == 401
    assert client.post(f"/vqa{INFER}", json=words_request([[1]]), headers=token).status_code == 200
    assert client.get("/vqav2", headers=token).status_code == 404
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/vqa"}]


def test_metrics_have_the_promised_names_and_few_labels(settings: Make) -> None:
    client = Client(create_app(settings()))
    assert client.post(INFER, json=words_request([[1], [2]])).status_code == 200
    assert client.post(INFER, json={}).status_code == 400
    assert client.post("/v2/models/made-up-by-a-client/infer", json={}).status_code == 404
    text = client.get("/metrics").text
    labels = 'model="words",version="2"'
    for line in (
        'vlcompress_requests_total{code="200",model="words",version="2"} 1.0',
        'vlcompress_requests_total{code="400",model="words",version="2"} 1.0',
        f"vlcompress_request_duration_seconds_count{{{labels}}} 2.0",
        f"vlcompress_queue_duration_seconds_count{{{labels}}} 1.0",
        f"vlcompress_inference_duration_seconds_count{{{labels}}} 1.0",
        f"vlcompress_batch_size_sum{{{labels}}} 2.0",
        f"vlcompress_queue_depth{{{labels}}} 0.0",
        'vlcompress_requests_rejected_total{reason="invalid"} 1.0',
        'vlcompress_requests_rejected_total{reason="not_found"} 1.0',
        'vlcompress_model_info{backend="onnxruntime",block="",model="words",provider="CPUExecutionProvider",'
        'sparsity="",version="2"} 1.0',
    ):
        assert line in text
    assert "made-up-by-a-client" not in text


def test_log_lines_are_json_and_carry_the_request_id(settings: Make, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(create_app(settings()))
    with caplog.at_level(logging.INFO, "vlcompress.serve"):
        client.post(INFER, json=words_request([[1], [2]]), headers={"X-Request-Id": "r-7"})
        client.post(INFER, json={}, headers={"X-Request-Id": "r-8"})
        client.get("/v2/health/ready")
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.message == "request"]
    good, bad = lines  # health checks are not worth a line
    assert (good["request_id"], good["status"], good["model"], good["rows"]) == ("r-7", 200, "words", 2)
    assert good["ms"] > good["inference_ms"] > 0
    assert (bad["request_id"], bad["status"], bad["reason"]) == ("r-8", 400, "invalid")


def test_a_bug_is_500_without_details_and_its_traceback_is_logged(
    settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(create_app(settings()))
    client.server.load()

    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    client.server.repository.get = broken
    found = client.post(INFER, json=words_request([[1]]))
    assert found.status_code == 500
    assert "secret" not in found.text
    assert any("secret" in JsonFormatter().format(record) for record in caplog.records)


def test_a_client_that_leaves_is_dropped_from_the_queue(settings: Make) -> None:
    config = settings()
    with running(config) as (address, server):
        app = server.config.app
        slow(app, 0.3)
        host, _, port = address.partition(":")
        body = json.dumps(words_request([[1]])).encode()
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        sockets = [socket.create_connection((host, int(port))) for _ in range(3)]
        for one in sockets:
            one.sendall(head + body)
        batcher = app.state.server.repository.get("words").batcher  # type: ignore[union-attr]
        _until(lambda: batcher.waiting_rows == 2)
        for one in sockets[1:]:
            one.close()
        _until(lambda: batcher.waiting_rows == 0)
        assert sockets[0].recv(100).startswith(b"HTTP/1.1 200")
        sockets[0].close()


def test_more_than_the_queue_holds_is_503_with_retry_after(settings: Make) -> None:
    app = create_app(settings(max_batch=1, queue_rows=2))
    slow(app, 0.1)

    async def many() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return list(await asyncio.gather(*[client.post(INFER, json=words_request([[1]])) for _ in range(10)]))

    found = asyncio.run(many())
    statuses = sorted(response.status_code for response in found)
    assert statuses == [200] * 3 + [503] * 7
    refused = next(response for response in found if response.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"] == "Exceeds maximum queue size"


@pytest.mark.parametrize(("timeout_us", "status"), [(20_000, 503), (10_000_000, 200)])
def test_a_request_may_shorten_its_deadline(settings: Make, timeout_us: int, status: int) -> None:
    client = Client(create_app(settings()))
    slow(client.app, 0.1)
    found = client.post(INFER, json=words_request([[1]], parameters={"timeout": timeout_us}))
    assert found.status_code == status
    if status == 503:
        assert found.json()["error"] == "Request timeout expired"


def test_a_request_may_not_lengthen_its_deadline(settings: Make) -> None:
    client = Client(create_app(settings(deadline_ms=30.0)))
    slow(client.app, 0.1)
    found = client.post(INFER, json=words_request([[1]], parameters={"timeout": 10_000_000}))
    assert found.status_code == 503


def test_tracing_without_opentelemetry_says_what_to_install(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry.sdk.trace", "opentelemetry.sdk"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(VlcompressError, match="pip install opentelemetry-sdk"):
        create_app(settings(otel=True))


def test_a_request_is_one_span_under_its_callers(settings: Make) -> None:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    client = Client(create_app(settings()))
    client.server.tracer = Tracer(exporter)
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    client.post(INFER, json=words_request([[1]]), headers={"traceparent": parent})
    client.server.tracer.close()
    (span,) = exporter.get_finished_spans()
    assert format(span.context.trace_id, "032x") == "ab" * 16
    assert (span.attributes["vlcompress.model"], span.attributes["vlcompress.rows"]) == ("words", 1)


def test_a_log_that_nobody_reads_does_not_stop_the_server() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        handler = BackgroundHandler(stream)
        record = logging.LogRecord("x", logging.INFO, "", 0, "y" * 1000, None, None)
        for _ in range(BackgroundHandler.MOST_LINES + 1000):  # far more than the pipe and the queue hold
            handler.emit(record)
        threading.Thread(target=_drain, args=(read,), daemon=True).start()
        _until(lambda: handler._lines.empty())
        handler.emit(record)
        handler.close()


def _drain(descriptor: int) -> None:
    while os.read(descriptor, 1 << 16):
        pass


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": ()}, "no model to serve"),
        ({"models": (ModelSpec("a b", Path()),)}, "cannot be part of a URL"),
        ({"models": (ModelSpec("a", Path()), ModelSpec("a", Path()))}, "two models are called 'a'"),
        ({"backend": "tf"}, "allowed are onnx, torch"),
        ({"provider": "gpu"}, "allowed are cpu, cuda"),
        ({"max_batch": 0}, "max_batch 0 is too low"),
        ({"drain_seconds": -1.0}, "drain_seconds -1.0 is negative"),
        ({"cors": ("example.org",)}, r"origin 'example\.org' is none: give scheme and host"),
        ({"cors": ("https://example.org/page",)}, "give scheme and host"),
        ({"prefix": "vqa"}, "prefix 'vqa' is none: give a path such as /vqa"),
        ({"prefix": "/vqa/"}, "without a slash at its end"),
        ({"queue_rows": 8}, "queue_rows 8 is below max_batch 32"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Make, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(VlcompressError, match=says):
        settings(**changes)


def test_sigterm_first_fails_readiness_then_drains_then_stops_and_loses_nothing(models: Path) -> None:
    """A real process under load: every request that was sent before readiness failed is answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from vlcompress.cli.main import main; main()"
    arguments = [f"words={models / 'words'}", "--port", str(port), "--drain", "1", "--threads", "1", "--sessions", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    base = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: _ready(base), 120)
        statuses: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=base) as client:
                while not stop.is_set():
                    statuses.append(client.post(INFER, json=words_request([[1]])).status_code)

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _until(lambda: not _ready(base))
        before = len(statuses)
        time.sleep(0.3)  # as long as a load balancer might take
        assert len(statuses) > before, "the server stopped serving before its drain was over"
        stop.set()
        for asker in askers:
            asker.join()
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert set(statuses) == {200}
    assert process.returncode == 0
    assert f"serving on http://127.0.0.1:{port}" in out
    assert all(json.loads(line) for line in err.splitlines())


def test_an_address_that_is_taken_is_told_before_anything_is_loaded(settings: Make) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(VlcompressError, match=rf"cannot listen on 127\.0\.0\.1:{port} .* give another"):
            bound(settings(port=port))
    with pytest.raises(VlcompressError, match=r"cannot listen on 203\.0\.113\.1"):
        bound(settings(host="203.0.113.1"))


def _ready(base: str) -> bool:
    try:
        return httpx.get(f"{base}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_replicas_keep_series_of_their_own(settings: Make) -> None:
    client = Client(create_app(settings(replica="r1")))
    assert client.post(INFER, json=words_request([[1]])).status_code == 200
    lines = [line for line in client.get("/metrics").text.splitlines() if line and not line.startswith("#")]
    assert 'vlcompress_requests_total{code="200",model="words",replica="r1",version="2"} 1.0' in lines
    assert all('replica="r1"' in line for line in lines)

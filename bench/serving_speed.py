"""What the server costs over onnxruntime called in a bare loop, and what MLServer costs on the same file.

    VLCOMPRESS_MLSERVER_VENV=... python -m bench.serving_speed RUN [--out bench/results/serving/speed.json]

Two questions, each in rounds that take turns in one run, with the same file, the same settings of ONNX Runtime (one
session of one thread) and the same client (prepared bytes over kept connections):

- saturation: rows a second with requests of 32 rows, enough of them in flight, against `session.run` on 32 rows, alone
  and with another core busy;
- latency: p50 of single rows, one at a time, against `session.run` on one row.

Servers are asked with JSON and, ours, with binary tensors and over gRPC; MLServer 1.7.1 speaks JSON only. The variable
names an environment with mlserver==1.7.1 and onnxruntime; without it MLServer is left out.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.records import write_record
from bench.serving import GrpcClient, RawClient, RunModel, ask_json, binary_request, grpc_request, json_request
from vlcompress.bench.load import saturate
from vlcompress.bench.served import free_port, served, wait_ready

VARIABLE = "VLCOMPRESS_MLSERVER_VENV"
ROWS, IN_FLIGHT, ROUNDS, SECONDS, CALLS = 32, 4, 7, 1.5, 150
PAYLOADS = 8

Measured = dict[str, list[float]]


@contextlib.contextmanager
def mlserver(model: RunModel) -> Iterator[str | None]:
    """Run MLServer on the model's file until the block ends; None where the variable names no environment."""
    venv = os.environ.get(VARIABLE)
    if not venv:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        settings = {
            "name": "model",
            "implementation": "mlserver_runtime.OnnxModel",
            "parameters": {
                "uri": str((model.folder / "model.onnx").resolve()),
                "extra": {"threads": 1, "disabled_optimizers": model.manifest["speed"]["disabled_optimizers"]},
            },
        }
        (Path(folder) / "model-settings.json").write_text(json.dumps(settings))
        server = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0}
        (Path(folder) / "settings.json").write_text(json.dumps({**server, "host": "127.0.0.1", "debug": False}))
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        command = [f"{venv}/bin/mlserver", "start", folder]
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder) as process:
            try:
                wait_ready(process, f"http://127.0.0.1:{port}/v2/models/model/ready", log)
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()


async def measure(model: RunModel, urls: dict[str, dict[str, str]], rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure both questions in interleaved rounds."""
    requests = _requests(model, urls)
    clients: dict[str, Any] = {
        name: (GrpcClient if name.endswith("grpc") else RawClient)(url) for name, (url, _, _) in requests.items()
    }
    await _warm(requests, clients)
    rows: Measured = {}
    p50: Measured = {}
    for _ in range(rounds):
        rows.setdefault("bare", []).append(_bare_rows(model))
        with _other_core_busy():
            rows.setdefault("bare, other core busy", []).append(_bare_rows(model))
        for name, (_, large, _) in requests.items():
            rows.setdefault(name, []).append(ROWS * await _rate(clients[name], large))
        singles = {name: (clients[name], single) for name, (_, _, single) in requests.items()}
        for name, found in (await _latencies(model, singles)).items():
            p50.setdefault(name, []).append(found)
    for client in clients.values():
        await client.close()
    return {"rows_per_s": _summary(rows, higher=True), "p50_ms": _summary(p50, higher=False)}


def _requests(model: RunModel, urls: dict[str, dict[str, str]]) -> dict[str, tuple[str, list[bytes], list[bytes]]]:
    """Give, for each server and encoding, where to ask, and the requests of 32 rows and of one."""
    makers = {"json": json_request, "binary": binary_request, "grpc": grpc_request}
    kinds = [(server, form) for server, forms in urls.items() for form in forms]
    return {
        f"{server}, {form}": (
            urls[server][form],
            [makers[form](model, "model", seed, ROWS) for seed in range(PAYLOADS)],
            [makers[form](model, "model", seed, 1) for seed in range(PAYLOADS)],
        )
        for server, form in kinds
    }


async def _warm(requests: dict[str, Any], clients: dict[str, Any]) -> None:
    for name, (_, large, single) in requests.items():
        for request in (*large, *single):
            status = await clients[name].ask(request)
            if status != "200":
                raise SystemExit(f"{name} answers {status}")


async def _rate(client: Any, requests: list[bytes]) -> float:
    send: Callable[[int], Awaitable[str]] = lambda index: client.ask(requests[index % PAYLOADS])  # noqa: E731
    return await saturate(send, IN_FLIGHT, SECONDS)


async def _latencies(model: RunModel, singles: dict[str, tuple[Any, list[bytes]]]) -> dict[str, float]:
    """Ask one row of each in turn, call by call, so that what else the machine does meets all of them alike."""
    feeds = [model.arrays(seed) for seed in range(PAYLOADS)]
    times: Measured = {name: [] for name in ("bare", *singles)}
    for index in range(CALLS):
        start = time.perf_counter()
        model.session.run(["logits"], feeds[index % PAYLOADS])
        times["bare"].append(time.perf_counter() - start)
        for name in list(singles)[:: 1 if index % 2 else -1]:
            client, requests = singles[name]
            start = time.perf_counter()
            await client.ask(requests[index % PAYLOADS])
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


@contextlib.contextmanager
def _other_core_busy() -> Iterator[None]:
    """Keep one more core busy with plain Python, as a server's event loop and its client do.

    Virtual cores may be two threads of one real core: whatever runs beside the bare loop then slows it.
    """
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def _bare_rows(model: RunModel) -> float:
    feeds, done, start = [model.arrays(seed, ROWS) for seed in range(PAYLOADS)], 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        model.session.run(["logits"], feeds[done % PAYLOADS])
        done += 1
    return ROWS * done / (time.perf_counter() - start)


def _summary(found: Measured, *, higher: bool) -> dict[str, Any]:
    """Take median and spread over rounds, and compare each with the bare loop of the same round."""
    summary = {}
    for name, values in found.items():
        pairs = list(zip(values, found["bare"], strict=True))
        compared = [a / b if higher else a - b for a, b in pairs]
        low, high = np.percentile(values, [25, 75])
        key = "of_bare" if higher else "over_bare_ms"
        summary[name] = {
            "median": round(statistics.median(values), 3),
            "spread": round(float(high - low), 3),
            **_of_busy(found, values),
            key: round(statistics.median(compared), 4),
            "rounds": [round(value, 3) for value in values],
        }
    return summary


def _of_busy(found: Measured, values: list[float]) -> dict[str, float]:
    """Compare with the bare loop whose neighbour is busy, where that was measured."""
    busy = found.get("bare, other core busy")
    ratios = [a / b for a, b in zip(values, busy, strict=True)] if busy else []
    return {"of_bare_busy": round(statistics.median(ratios), 4)} if ratios else {}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    model = RunModel(arguments.run)
    options = ["--log-level", "error", "--threads", "1", "--sessions", "1", "--no-page"]
    with served({"model": model.folder}, options, over_grpc=True) as own, mlserver(model) as other:
        urls = {"vlcompress": {"json": own.url, "binary": own.url, "grpc": own.grpc}}
        urls |= {"mlserver": {"json": other}} if other else {}
        for forms in urls.values():
            scores = ask_json(forms["json"], "model", model.document(1))
            np.testing.assert_allclose(scores, model.expected(1), rtol=1e-4, atol=1e-5)
        found = asyncio.run(measure(model, urls, arguments.rounds))
    given = {"rows": ROWS, "in_flight": IN_FLIGHT, "rounds": arguments.rounds, "seconds": SECONDS, "calls": CALLS}
    write_record("python -m bench.serving_speed", {**given, "options": options, **found}, arguments.out)


if __name__ == "__main__":
    main()

"""The benchmark of a server: several models side by side at rising rates, asked by NVIDIA Triton's own client.

The models take turns at every rate, so whatever slows the machine for a while slows all of them.
"""

import asyncio
import contextlib
import importlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlcompress.bench.environment import environment
from vlcompress.bench.load import OK, Sample, Send, arrivals, offer, saturate, summarise
from vlcompress.bench.served import served
from vlcompress.errors import VlcompressError
from vlcompress.export.export_run import export_dense
from vlcompress.export.parity import compare_scores, require
from vlcompress.export.runtime import open_session
from vlcompress.results import RateResult, ServedModel, ServeResult, save
from vlcompress.tickets.models import samples, score_task
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import load_ticket

DOCUMENT = "bench-serve.json"
SHARES = (0.1, 0.25, 0.5, 0.7, 0.85, 1.0, 1.3)
"""Rates to offer, as shares of the slowest model's capacity, where none are given."""
ROUNDS = 3
CONCURRENCY = 64
"""Requests in flight while the capacity is sought."""
CAPACITY_SECONDS = 2.0
PAYLOADS = 64
"""Different real requests that take turns."""

Arrays = Mapping[str, npt.NDArray[Any]]
Say = Callable[[str], None]

_TYPES = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "float16": "FP16", "bool": "BOOL"}


@dataclass(frozen=True)
class LoadPlan:
    """What to offer.

    Attributes:
        rates: requests a second; empty takes `SHARES` of the capacity.
        seconds: length of one load.
        rows: examples in a request.
        seed: of the arrivals and of the order of models.
        token: bearer token that the server asks for.
    """

    rates: tuple[float, ...] = ()
    seconds: float = 3.0
    rows: int = 1
    seed: int = 0
    token: str | None = None


def bench_serve(run: Run, plan: LoadPlan, *, url: str | None, models: Sequence[str], say: Say = print) -> ServeResult:
    """Load a server with the run's own examples and write ``bench-serve.json``.

    Args:
        run: an exported run; its examples are what is asked.
        plan: what to offer.
        url: a server that runs already, "host:port"; None starts one with the run's dense and compiled export.
        models: names to compare at `url`; without `url` it must be empty.
        say: told one line at each step.

    Returns:
        What ``bench-serve.json`` holds.

    Raises:
        VlcompressError: not exported, no server there, an unknown model, or the client's package is missing.
        VerificationError: the server that was started does not answer as the files do.
    """
    _client()
    if url is None and models:
        raise VlcompressError(f"model '{models[0]}' is at no server: give --url HOST:PORT, or leave --model out")
    payloads = _payloads(run, plan.rows)
    if url is not None:
        result = measure(url, models or ["model"], payloads, plan, say)
    else:
        with _own_server(run, say) as (own, folders):
            check_answers(own, folders, payloads[:8])
            result = replace(measure(own, list(folders), payloads, plan, say), answers_checked=True)
    save(result, run.folder / DOCUMENT)
    return result


def measure(
    url: str, models: Sequence[str], payloads: Sequence[Arrays], plan: LoadPlan, say: Say = print
) -> ServeResult:
    """Compare models of a running server on given requests; see `bench_serve` for what comes back."""
    return asyncio.run(_run(url, list(models), payloads, plan, say))


def check_answers(url: str, folders: Mapping[str, Path], payloads: Sequence[Arrays]) -> None:
    """Compare a server's scores with those that the files give in this process.

    Args:
        url: "host:port".
        folders: the exported folder of each model that it serves.
        payloads: what to ask.

    Raises:
        VerificationError: they differ; no speed is reported then.
    """
    for model, folder in folders.items():
        session = open_session(folder / "model.onnx", threads=1)
        expected = [session.run(["logits"], dict(arrays))[0] for arrays in payloads]
        got = asyncio.run(_scores(url, model, payloads))
        require(compare_scores(expected, got), f"'{model}' at '{url}' does not answer as its file does")


async def _scores(url: str, model: str, payloads: Sequence[Arrays]) -> list[npt.NDArray[np.float32]]:
    client = _client().InferenceServerClient(url)
    try:
        answers = [await client.infer(model, _inputs(_client(), arrays)) for arrays in payloads]
    finally:
        await client.close()
    return [answer.as_numpy("logits") for answer in answers]


def triton_send(client: Any, model: str, payloads: Sequence[Arrays], token: str | None = None) -> Send:
    """Make the function that sends request i to a model, binary both ways.

    Args:
        client: a ``tritonclient.http.aio.InferenceServerClient``.
        model: its name.
        payloads: inputs of the requests, which take turns; each is serialised once.
        token: bearer token.
    """
    module = _client()
    prepared = [_inputs(module, arrays) for arrays in payloads]
    outputs = [module.InferRequestedOutput("logits", binary_data=True)]
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def send(index: int) -> str:
        inputs = prepared[index % len(prepared)]
        try:
            await client.infer(model, inputs, outputs=outputs, headers=dict(headers))
        except module.InferenceServerException as error:
            return str(error.status() or "error")
        except TimeoutError:
            return "timeout"
        except OSError:  # aiohttp's connection errors are OSErrors, or say that the server hung up
            return "disconnected"
        except Exception as error:
            if type(error).__module__.startswith("aiohttp"):
                return "disconnected"
            raise
        return OK

    return send


async def _run(url: str, models: list[str], payloads: Sequence[Arrays], plan: LoadPlan, say: Say) -> ServeResult:
    client = _client().InferenceServerClient(url, conn_limit=4096, conn_timeout=30.0)
    try:
        sends = {model: triton_send(client, model, payloads, plan.token) for model in models}
        for model, send in sends.items():
            await _must_answer(model, send, url)
        capacity = {model: await saturate(send, CONCURRENCY, CAPACITY_SECONDS) for model, send in sends.items()}
        for model, found in capacity.items():
            say(f"{model}: about {found:.0f} requests/s at {CONCURRENCY} in flight")
        rates = plan.rates or tuple(round(share * min(capacity.values()), 1) for share in SHARES)
        points: dict[str, list[RateResult]] = {model: [] for model in models}
        for rate in rates:
            say(f"{rate:g} requests/s, {ROUNDS} times {plan.seconds:g} s for each of {len(models)} model(s)")
            for model, rounds in (await _rate(sends, rate, plan)).items():
                points[model].append(RateResult(**vars(summarise(rounds, plan.seconds)), rate=rate))
    finally:
        await client.close()
    served_models = {model: ServedModel(round(capacity[model], 1), tuple(points[model])) for model in models}
    offered = {**asdict(plan), "token": bool(plan.token), "rounds": ROUNDS, "rates": list(rates)}
    return ServeResult(environment(), offered, served_models, answers_checked=False)


async def _rate(sends: Mapping[str, Send], rate: float, plan: LoadPlan) -> dict[str, list[list[Sample]]]:
    """Offer one rate to every model in `ROUNDS` rounds, in an order that is shuffled in each; same arrivals for all."""
    found: dict[str, list[list[Sample]]] = {model: [] for model in sends}
    for round_ in range(ROUNDS):
        due = arrivals(rate, plan.seconds, plan.seed * 1000 + round_)
        order = list(sends)
        random.Random(f"{plan.seed} {rate} {round_}").shuffle(order)
        for model in order:
            found[model].append(await offer(sends[model], due))
    return found


async def _must_answer(model: str, send: Send, url: str) -> None:
    """Ask a few times, which also warms connections up."""
    for index in range(8):
        outcome = await send(index)
        if outcome != OK:
            meaning = {"404": "it has no such model", "401": "it asks for a token", "disconnected": "nobody listens"}
            raise VlcompressError(
                f"server '{url}' answers {outcome} for model '{model}' ({meaning.get(outcome, 'see its log')}): "
                "check --url, --model and the token"
            )


def _payloads(run: Run, rows: int) -> list[dict[str, npt.NDArray[Any]]]:
    """Take real requests that all have the same shape, so that a server can batch any of them together."""
    ticket = load_ticket(run.ticket)
    (inputs,) = samples(score_task(run, ticket), rows * PAYLOADS)
    parts = range(0, rows * PAYLOADS, rows)
    return [{name: value[start : start + rows].numpy() for name, value in inputs.items()} for start in parts]


def _inputs(module: Any, arrays: Arrays) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), _TYPES[str(array.dtype)])
        tensor.set_data_from_numpy(np.ascontiguousarray(array), binary_data=True)
        inputs.append(tensor)
    return inputs


@contextlib.contextmanager
def _own_server(run: Run, say: Say) -> Iterator[tuple[str, dict[str, Path]]]:
    """Serve the run's dense and compiled export in a process of its own; give where, and the models' folders."""
    if not (run.folder / "onnx" / "manifest.json").is_file():
        raise VlcompressError(f"run '{run.folder}' has no exported model: run `vlcompress export` first")
    models = {"dense": export_dense(run).parent, "compiled": run.folder / "onnx"}
    say("starting a server with the dense and the compiled export")
    with served(models) as server:
        yield server.url, models


def _client() -> Any:
    try:
        return importlib.import_module("tritonclient.http.aio")
    except (ImportError, RuntimeError) as error:
        raise VlcompressError(
            "the load is made with NVIDIA's client, which is missing: pip install 'tritonclient[http]'"
        ) from error

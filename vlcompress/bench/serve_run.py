"""The benchmark of a server: several models side by side at rising rates, asked by NVIDIA Triton's own client.

The models take turns at every rate, so whatever slows the machine for a while slows all of them.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vlcompress.bench.environment import environment
from vlcompress.bench.load import OK, Sample, Send, arrivals, offer, saturate, summarise
from vlcompress.bench.served import Served, served
from vlcompress.bench.triton_clients import Arrays, client_module, open_client, tensors, triton_send
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

Say = Callable[[str], None]


@dataclass(frozen=True)
class LoadPlan:
    """What to offer.

    Attributes:
        rates: requests a second; empty takes `SHARES` of the capacity.
        seconds: length of one load.
        rows: examples in a request.
        seed: of the arrivals and of the order of models.
        token: bearer token that the server asks for.
        protocol: that it is asked by; "both" only of a server that is started here.
    """

    rates: tuple[float, ...] = ()
    seconds: float = 3.0
    rows: int = 1
    seed: int = 0
    token: str | None = None
    protocol: Literal["http", "grpc", "both"] = "http"

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols, one or two."""
        return ("http", "grpc") if self.protocol == "both" else (self.protocol,)


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
    for protocol in plan.protocols:
        client_module(protocol)
    if url is not None and plan.protocol == "both":
        raise VlcompressError(f"'{url}' is one address, of one protocol: give --protocol http or grpc")
    if url is None and models:
        raise VlcompressError(f"model '{models[0]}' is at no server: give --url HOST:PORT, or leave --model out")
    payloads = _payloads(run, plan.rows)
    if url is not None:
        result = measure({plan.protocol: url}, models or ["model"], payloads, plan, say)
    else:
        with _own_server(run, say, over_grpc=plan.protocol != "http") as (own, folders):
            urls = {protocol: own.grpc if protocol == "grpc" else own.url for protocol in plan.protocols}
            check_answers(urls, folders, payloads[:8])
            result = replace(measure(urls, list(folders), payloads, plan, say), answers_checked=True)
    save(result, run.folder / DOCUMENT)
    return result


def measure(
    urls: Mapping[str, str], models: Sequence[str], payloads: Sequence[Arrays], plan: LoadPlan, say: Say = print
) -> ServeResult:
    """Compare models of a running server on given requests, over each protocol ("host:port" by "http" and "grpc").

    See `bench_serve` for what comes back; where there are two protocols, models are named with theirs.
    """
    return asyncio.run(_run(urls, list(models), payloads, plan, say))


def check_answers(urls: Mapping[str, str], folders: Mapping[str, Path], payloads: Sequence[Arrays]) -> None:
    """Compare a server's scores with those that the files give in this process.

    Args:
        urls: "host:port" by protocol.
        folders: the exported folder of each model that it serves.
        payloads: what to ask.

    Raises:
        VerificationError: they differ; no speed is reported then.
    """
    for model, folder in folders.items():
        session = open_session(folder / "model.onnx", threads=1)
        expected = [session.run(["logits"], dict(arrays))[0] for arrays in payloads]
        for protocol, url in urls.items():
            got = asyncio.run(_scores(protocol, url, model, payloads))
            require(compare_scores(expected, got), f"'{model}' at '{url}' does not answer as its file does")


async def _scores(protocol: str, url: str, model: str, payloads: Sequence[Arrays]) -> list[npt.NDArray[np.float32]]:
    client = open_client(protocol, url)
    try:
        answers = [await client.infer(model, tensors(protocol, arrays)) for arrays in payloads]
    finally:
        await client.close()
    return [answer.as_numpy("logits") for answer in answers]


async def _run(
    urls: Mapping[str, str], models: list[str], payloads: Sequence[Arrays], plan: LoadPlan, say: Say
) -> ServeResult:
    clients = {protocol: open_client(protocol, url) for protocol, url in urls.items()}
    try:
        sends: dict[str, Send] = {}
        for protocol, client in clients.items():
            for model in models:
                send = triton_send(protocol, client, model, payloads, plan.token)
                await _must_answer(model, send, urls[protocol])
                sends[f"{model}, {protocol}" if len(urls) > 1 else model] = send
        capacity = {model: await saturate(send, CONCURRENCY, CAPACITY_SECONDS) for model, send in sends.items()}
        for model, found in capacity.items():
            say(f"{model}: about {found:.0f} requests/s at {CONCURRENCY} in flight")
        rates = plan.rates or tuple(round(share * min(capacity.values()), 1) for share in SHARES)
        points: dict[str, list[RateResult]] = {model: [] for model in sends}
        for rate in rates:
            say(f"{rate:g} requests/s, {ROUNDS} times {plan.seconds:g} s for each of {len(sends)}")
            for model, rounds in (await _rate(sends, rate, plan)).items():
                points[model].append(RateResult(**vars(summarise(rounds, plan.seconds)), rate=rate))
    finally:
        for client in clients.values():
            await client.close()
    served_models = {model: ServedModel(round(capacity[model], 1), tuple(points[model])) for model in sends}
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


@contextlib.contextmanager
def _own_server(run: Run, say: Say, *, over_grpc: bool) -> Iterator[tuple[Served, dict[str, Path]]]:
    """Serve the run's dense and compiled export in a process of its own; give where, and the models' folders."""
    if not (run.folder / "onnx" / "manifest.json").is_file():
        raise VlcompressError(f"run '{run.folder}' has no exported model: run `vlcompress export` first")
    models = {"dense": export_dense(run).parent, "compiled": run.folder / "onnx"}
    say("starting a server with the dense and the compiled export")
    with served(models, over_grpc=over_grpc) as server:
        yield server, models

"""Malformed requests: the server answers them with the client's own mistake, or hangs up, and lives on."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from bench.serving import RunModel, ask_json
from tests.serve.live import malformed_grpc
from tests.serve.live.malformed import MAKERS, Outcome, attempts, send_all, wrong
from vlcompress.bench.served import Served

MODEL = "lxmert_vqa"
EACH = 20


@pytest.mark.timeout(120)
def test_malformed_requests_do_no_harm(live_server: Served, exported: Path) -> None:
    model = RunModel(exported)
    drawn = attempts(MODEL, model.document(0), EACH * len(MAKERS), seed=1)
    outcomes = asyncio.run(send_all(live_server.url, drawn))
    assert wrong(outcomes) == []
    assert {outcome.kind for outcome in outcomes} == set(MAKERS)
    refused = [outcome for outcome in outcomes if outcome.status.startswith("4")]
    assert len(refused) > len(outcomes) / 2
    scores = ask_json(live_server.url, MODEL, model.document(1))
    np.testing.assert_allclose(scores, model.expected(1), rtol=1e-4, atol=1e-5)


@pytest.mark.timeout(120)
def test_malformed_calls_over_grpc_do_no_harm(live_server: Served, exported: Path) -> None:
    model = RunModel(exported)
    drawn = malformed_grpc.calls(MODEL, model.arrays(0), EACH * len(malformed_grpc.MAKERS), seed=1)
    outcomes = asyncio.run(malformed_grpc.send_all(live_server.grpc, drawn))
    assert malformed_grpc.wrong(outcomes) == []
    assert {outcome.kind for outcome in outcomes} == set(malformed_grpc.MAKERS)
    assert sum(outcome.status == "INVALID_ARGUMENT" for outcome in outcomes) > len(outcomes) / 3
    scores = ask_json(live_server.url, MODEL, model.document(1))
    np.testing.assert_allclose(scores, model.expected(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gzip bomb", "deep nesting", "huge shape", "not finite", "bad gzip", "random bits"])
def test_these_are_always_refused(live_server: Served, exported: Path, kind: str) -> None:
    document = RunModel(exported).document(0)
    drawn = [one for one in attempts(MODEL, document, 15 * len(MAKERS), seed=2) if one.kind == kind]
    outcomes = asyncio.run(send_all(live_server.url, drawn))
    assert [outcome for outcome in outcomes if outcome.status not in ("400", "413", "415", "422", "closed")] == []


def test_a_seed_draws_the_same_requests(exported: Path) -> None:
    document = RunModel(exported).document(0)
    first, again = (list(attempts(MODEL, document, 60, seed=3)) for _ in range(2))
    assert first == again
    assert first != list(attempts(MODEL, document, 60, seed=4))


def test_what_counts_as_wrong() -> None:
    outcomes = [Outcome("k", status) for status in ("200", "400", "503", "closed", "left", "500", "501", "silent")]
    assert [outcome.status for outcome in wrong(outcomes)] == ["500", "501", "silent"]

"""The benchmark of a server, against a real one."""

from pathlib import Path

import pytest

from bench.serving import RunModel
from vlcompress.bench.serve_run import LoadPlan, check_answers, measure
from vlcompress.bench.served import Served
from vlcompress.errors import VerificationError, VlcompressError

MODEL = "lxmert_vqa"
QUICK = LoadPlan(rates=(5.0, 30.0), seconds=0.3)


def quiet(line: str) -> None:
    """Say nothing."""


def test_every_model_is_offered_the_same_rates(live_server: Served, exported: Path) -> None:
    payloads = [RunModel(exported).arrays(seed) for seed in range(4)]
    record = measure(live_server.url, [MODEL], payloads, QUICK, quiet)
    found = record.models[MODEL]
    assert found.capacity_per_s > 0
    assert [point.rate for point in found.points] == [5.0, 30.0]
    assert all(set(point.outcomes) == {"200"} for point in found.points)
    assert (found.points[1].p50_ms or 0) > 0
    assert record.plan["token"] is False


def test_a_seed_offers_the_same_load(live_server: Served, exported: Path) -> None:
    payloads = [RunModel(exported).arrays(0)]
    first, again = (measure(live_server.url, [MODEL], payloads, QUICK, quiet).models[MODEL] for _ in range(2))
    counts = [[sum(point.outcomes.values()) for point in found.points] for found in (first, again)]
    assert counts[0] == counts[1]


def test_servers_that_cannot_be_measured_are_told(live_server: Served, exported: Path) -> None:
    payloads = [RunModel(exported).arrays(0)]
    with pytest.raises(VlcompressError, match="answers 404 for model 'nope'"):
        measure(live_server.url, ["nope"], payloads, QUICK, quiet)
    with pytest.raises(VlcompressError, match="nobody listens"):
        measure("127.0.0.1:1", [MODEL], payloads, QUICK, quiet)


def test_answers_are_checked_against_the_file(live_server: Served, exported: Path, tmp_path: Path) -> None:
    from tests.conftest import make_ticket
    from tests.export.test_onnx import export

    payloads = [RunModel(exported).arrays(seed) for seed in range(3)]
    check_answers(live_server.url, {MODEL: exported}, payloads)
    other = make_ticket((1, 1), 0.4)
    export(other, other.model, tmp_path / "onnx")
    with pytest.raises(VerificationError, match="does not answer as its file does"):
        check_answers(live_server.url, {MODEL: tmp_path / "onnx"}, payloads)

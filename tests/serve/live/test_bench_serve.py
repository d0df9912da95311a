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


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_model_is_offered_the_same_rates(live_server: Served, exported: Path, protocol: str) -> None:
    payloads = [RunModel(exported).arrays(seed) for seed in range(4)]
    url = live_server.grpc if protocol == "grpc" else live_server.url
    record = measure({protocol: url}, [MODEL], payloads, QUICK, quiet)
    found = record.models[MODEL]
    assert found.capacity_per_s > 0
    assert [point.rate for point in found.points] == [5.0, 30.0]
    assert all(set(point.outcomes) == {"200"} for point in found.points)
    assert (found.points[1].p50_ms or 0) > 0
    assert record.plan["token"] is False


def test_protocols_are_measured_side_by_side(live_server: Served, exported: Path) -> None:
    payloads, urls = [RunModel(exported).arrays(0)], {"http": live_server.url, "grpc": live_server.grpc}
    found = measure(urls, [MODEL], payloads, QUICK, quiet).models
    assert list(found) == [f"{MODEL}, http", f"{MODEL}, grpc"]
    assert all(set(point.outcomes) == {"200"} for model in found.values() for point in model.points)


def test_a_seed_offers_the_same_load(live_server: Served, exported: Path) -> None:
    payloads = [RunModel(exported).arrays(0)]
    first, again = (measure({"http": live_server.url}, [MODEL], payloads, QUICK, quiet).models[MODEL] for _ in range(2))
    counts = [[sum(point.outcomes.values()) for point in found.points] for found in (first, again)]
    assert counts[0] == counts[1]


def test_servers_that_cannot_be_measured_are_told(live_server: Served, exported: Path) -> None:
    payloads = [RunModel(exported).arrays(0)]
    with pytest.raises(VlcompressError, match="answers 404 for model 'nope'"):
        measure({"http": live_server.url}, ["nope"], payloads, QUICK, quiet)
    with pytest.raises(VlcompressError, match="answers 404 for model 'nope'"):
        measure({"grpc": live_server.grpc}, ["nope"], payloads, QUICK, quiet)
    for protocol in ("http", "grpc"):
        with pytest.raises(VlcompressError, match="nobody listens"):
            measure({protocol: "127.0.0.1:1"}, [MODEL], payloads, QUICK, quiet)


def test_answers_are_checked_against_the_file(live_server: Served, exported: Path, tmp_path: Path) -> None:
    from tests.conftest import make_ticket
    from tests.export.test_onnx import export

    payloads = [RunModel(exported).arrays(seed) for seed in range(3)]
    check_answers({"http": live_server.url, "grpc": live_server.grpc}, {MODEL: exported}, payloads)
    other = make_ticket((1, 1), 0.4)
    export(other, other.model, tmp_path / "onnx")
    with pytest.raises(VerificationError, match="does not answer as its file does"):
        check_answers({"http": live_server.url}, {MODEL: tmp_path / "onnx"}, payloads)

"""The same server on Ray Serve: same answers, and a killed replica costs its own requests only."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.serving import RawClient, RunModel, ask_json, binary_request
from tests.serve.live.differential import ask, cases, differences
from vlcompress.bench.served import Served, served
from vlcompress.cli.main import main

MODEL = "lxmert_vqa"
WORKERS = 8

needs_ray = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'vlcompress[ray]'"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def replicas(exported: Path) -> Iterator[Served]:
    """Return a server of two replicas."""
    options = ["--engine", "ray", "--replicas", "2", "--threads", "1", "--sessions", "1", "--max-batch", "8"]
    with served({MODEL: exported}, options, start_seconds=400, stop_seconds=60) as server:
        yield server


class TestRay:
    pytestmark = needs_ray

    def test_answers_are_those_of_one_process(self, replicas: Served, live_server: Served, exported: Path) -> None:
        arrays = RunModel(exported).arrays(0, rows=2)
        requests = cases(MODEL, arrays, 8)
        found = {
            name: differences(name, ask(live_server.url, one), ask(replicas.url, one))
            for name, one in requests.items()
            if ask(live_server.url, one).status == 200 and name != "statistics"
        }
        assert len(found) > 20
        assert {name: texts for name, texts in found.items() if texts and "reference" not in texts[0]} == {}

    def test_a_killed_replica_costs_its_own_requests_only(self, replicas: Served, exported: Path) -> None:
        model = RunModel(exported)
        requests = [binary_request(model, MODEL, seed, 1) for seed in range(8)]
        first = _replicas(replicas.pid)
        assert len(first) == 2
        outcomes = asyncio.run(_load_and_kill(replicas.url, requests, first[0]))
        lost = sum(count for status, count in outcomes.items() if status != "200")
        print(f"outcomes {dict(outcomes)}")
        assert outcomes["200"] > 20
        assert lost <= WORKERS
        _wait_for(lambda: len(set(_replicas(replicas.pid)) - {first[0]}) == 2)  # Ray starts another one
        np.testing.assert_allclose(ask_json(replicas.url, MODEL, model.document(1)), model.expected(1), rtol=1e-4)


async def _load_and_kill(url: str, requests: list[bytes], victim: int) -> Counter[str]:
    """Ask from eight workers for eight seconds, and kill a replica after three."""
    client, outcomes, end = RawClient(url), Counter[str](), time.monotonic() + 8

    async def work(worker: int) -> None:
        while time.monotonic() < end:
            outcomes[await client.ask(requests[worker])] += 1

    async def kill() -> None:
        await asyncio.sleep(3)
        os.kill(victim, signal.SIGKILL)

    await asyncio.gather(kill(), *(work(worker) for worker in range(WORKERS)))
    await client.close()
    return outcomes


def _replicas(server: int) -> list[int]:
    """List the processes of the replicas that descend from a server."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdecimal() and (entry / "cmdline").read_text().startswith("ray::ServeReplica"):
                found.append(int(entry.name))
    return sorted(pid for pid in found if server in _ancestors(pid))


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def _wait_for(condition: object, seconds: float = 90) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_command_says_what_to_install(exported: Path) -> None:
    result = CliRunner().invoke(main, ["serve", str(exported), "--engine", "ray"])
    assert result.exit_code == 2
    assert "pip install 'vlcompress[ray]'" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replicas", "2"], "add --engine ray"),
        (["--engine", "ray", "--replicas", "0"], "0 is not in the range 1<=x"),
        (["--engine", "ray", "--host", "0.0.0.0"], "listens on 127.0.0.1 only"),
    ],
)
def test_options_that_do_not_fit_are_refused(exported: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(exported), *options])
    assert result.exit_code == 2
    assert message in result.output

"""A server in a process of its own, for the tests that want a real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from vlcompress.bench.served import Served, served
from vlcompress.export.onnx import export_onnx
from vlcompress.sparse.timing import Effort


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of the tests that need NVIDIA's server."""
    config.addinivalue_line("markers", "ray: needs Ray Serve")
    config.addinivalue_line("markers", "triton_server: needs NVIDIA's server (triton_reference.py says how)")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small exported model."""
    from tests.conftest import make_ticket

    ticket, folder = make_ticket((1, 1), 0.5), tmp_path_factory.mktemp("served") / "onnx"
    quick = Effort(rounds=1, burst_s=0.0, warmup=0)
    samples = [ticket.inputs]
    export_onnx(ticket.family, ticket.model, folder, samples, config=ticket.config, head=ticket.head, effort=quick)
    return folder


@pytest.fixture(scope="session")
def live_server(exported: Path) -> Iterator[Served]:
    """Return a running server with the model "lxmert_vqa"."""
    options = ["--max-batch", "8", "--threads", "1", "--sessions", "1", "--log-level", "error"]
    with served({"lxmert_vqa": exported}, options, over_grpc=True) as server:
        yield server

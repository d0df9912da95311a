"""From options to settings, and the choice of threads and sessions."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlcompress.errors import VlcompressError
from vlcompress.serve import tuning
from vlcompress.serve.run import bound, listen
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.start import make_settings, notes, read_token, summary
from vlcompress.serve.tuning import Parallel, Throughput, available_memory, choose_parallel


class Counting:
    """An engine that counts its calls."""

    calls = 0

    def run(self, feeds: Any) -> Any:
        self.calls += 1
        time.sleep(0.001)
        return feeds


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "available_cores", lambda: 4)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({1: 100.0, 2: 200.0, 4: 400.0}, Parallel(1, 4)),  # threads inside an execution do not help
        ({1: 100.0, 2: 104.0, 4: 90.0}, Parallel(4, 1)),  # they do: a lone request is then faster too
        ({1: 100.0, 2: 200.0, 4: 205.0}, Parallel(2, 2)),
    ],
)
def test_threads_and_sessions_are_chosen_by_throughput(
    rates: dict[int, float], chosen: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tuning, "_measure", lambda choice, *_: Throughput(choice.threads, choice.sessions, rates[choice.sessions])
    )
    got, measured = choose_parallel(None, None, lambda _: (Counting(), {}))  # type: ignore[arg-type,return-value]
    assert got == chosen
    assert [(row.threads, row.sessions) for row in measured] == [(4, 1), (2, 2), (1, 4)]


def test_on_many_cores_few_copies_of_the_weights_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "available_cores", lambda: 64)
    monkeypatch.setattr(tuning, "_measure", lambda choice, *_: Throughput(choice.threads, choice.sessions, 1.0))
    _, measured = choose_parallel(None, None, lambda _: (Counting(), {}))  # type: ignore[arg-type,return-value]
    assert [(row.threads, row.sessions) for row in measured] == [(64, 1), (32, 2), (16, 4), (1, 64)]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, [0.5]),
        ({"cpu.max": "max 100000\n"}, []),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, [2.5]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        ({}, []),
    ],
)
def test_the_quota_of_a_container_counts(files: dict[str, str], cores: list[float], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert tuning._quotas(tmp_path) == cores


def test_of_servers_that_started_together_one_gets_the_port() -> None:
    first = bound(Settings((ModelSpec("m", Path("m")),), port=0))
    settings = Settings((ModelSpec("m", Path("m")),), port=first.getsockname()[1])
    with first, bound(settings) as second:  # neither listens yet, so both may bind
        listen(first, settings)
        with pytest.raises(VlcompressError, match=r"cannot listen on .* give another --host or --port"):
            listen(second, settings)


def test_a_measurement_counts_the_rows_of_every_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0.05)
    engine, start = Counting(), time.perf_counter()
    found = tuning._measure(Parallel(1, 3), engine, {"x": np.zeros((8, 1))})  # type: ignore[arg-type]
    rows = 8 * (engine.calls - 1)  # the first call warms up
    assert rows / (time.perf_counter() - start) <= found.rows_per_s <= rows / 0.05


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("threads", "sessions", "chosen"),
    [(1, None, (1, 4)), (None, 2, (2, 2)), (3, None, (3, 1)), (8, None, (8, 1)), (2, 3, (2, 3))],
)
def test_what_is_asked_for_is_not_measured(threads: int | None, sessions: int | None, chosen: tuple[int, int]) -> None:
    def refuse(_: Parallel) -> Any:
        raise AssertionError("measured for nothing")

    got, measured = choose_parallel(threads, sessions, refuse)
    assert (got.threads, got.sessions) == chosen
    assert measured == ()


def test_options_become_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    got = make_settings(
        ["a=runs/a", "some/b.onnx"], home=tmp_path, threads="2", max_body=8, token_file=tmp_path / "token", port=1
    )
    assert got.models == (ModelSpec("a", Path("runs/a")), ModelSpec("b", Path("some/b.onnx")))
    assert (got.threads, got.sessions, got.port, got.token) == (2, None, 1, "s3cret")
    assert (got.max_body_bytes, got.max_inflated_bytes) == (8 << 20, 16 << 20)


def test_the_token_may_come_from_the_environment_and_the_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_token(None) is None
    monkeypatch.setenv("VLCOMPRESS_TOKEN", "from-environment")
    (tmp_path / "token").write_text("from-file")
    assert read_token(None) == "from-environment"
    assert read_token(tmp_path / "token") == "from-file"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", "zürich".encode(), b"\xff"])
def test_tokens_that_no_header_carries_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(VlcompressError, match="token"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize(
    ("host", "token", "count"), [("127.0.0.1", None, 0), ("::1", None, 0), ("0.0.0.0", None, 2), ("0.0.0.0", "x", 1)]
)
def test_an_open_address_is_pointed_out(host: str, token: str | None, count: int) -> None:
    found = notes(Settings((ModelSpec("a", Path()),), host=host, token=token))
    assert len(found) == count
    assert not count or "TLS" in found[-1]


def test_the_summary_tells_model_pruning_and_measurements() -> None:
    measured = [{"threads": 1, "sessions": 2, "rows_per_s": 1234.5}]
    model = {
        "model": "lxmert_vqa", "version": "1", "sparsity": "0.3", "backend": "onnxruntime", "provider": "CPU",
        "threads": 1, "sessions": 2, "measured": measured,
    }  # fmt: skip
    text = summary({"url": "http://127.0.0.1:8000", "models": [model], "notes": ["look"]})
    assert text.splitlines() == [
        "serving on http://127.0.0.1:8000",
        "  lxmert_vqa version 1: onnxruntime on CPU, 30% pruned, 2 session(s) of 1 thread(s)",
        "    measured: 2 x 1 thread(s): 1234 rows/s",
        "  note: look",
    ]


@pytest.mark.parametrize(("gigabytes", "sessions"), [(1, [1, 2, 4]), (3, [1, 4]), (9, [1, 4])])
def test_copies_that_do_not_fit_into_memory_are_not_tried(
    gigabytes: int, sessions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "available_cores", lambda: 4)
    monkeypatch.setattr(tuning, "available_memory", lambda: 8 << 30)
    monkeypatch.setattr(tuning, "_measure", lambda choice, *_: Throughput(choice.threads, choice.sessions, 1.0))
    _, measured = choose_parallel(None, None, lambda _: (Counting(), {}), gigabytes << 30)  # type: ignore[arg-type,return-value]
    assert [row.sessions for row in measured] == sessions  # four of one thread each share one copy


def test_the_containers_memory_counts(tmp_path: Path) -> None:
    machine = available_memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == machine > 1 << 28
    (tmp_path / "memory.max").write_text("1048576\n")
    assert available_memory(tmp_path) == 1 << 20
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("4096\n")
    assert available_memory(tmp_path) == 4096

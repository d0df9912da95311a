"""What a study's speeds are compared with."""

import time
from types import SimpleNamespace

import pytest

from vlcompress.sparse.timing import Effort
from vlcompress.studies import latency


def test_dense_counts_as_the_fastest_of_its_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(seconds: float) -> SimpleNamespace:
        return SimpleNamespace(run=lambda outputs, arrays: time.sleep(seconds))

    monkeypatch.setattr(latency, "feed", lambda session, inputs: {})
    sessions = {"dense": [session(0.3), session(0.04), session(0.3)], "ticket": [session(0.01)]}
    found = latency._batch(sessions, {}, 4, Effort(rounds=5, burst_s=0.0, warmup=0))
    assert 40 <= found["dense"]["p50_ms"] < 300
    assert found["dense"]["speedup"]["value"] == 1.0
    assert 1.0 < found["ticket"]["speedup"]["value"] < 8.0

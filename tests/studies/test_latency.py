"""What a study's speeds are compared with."""

from types import SimpleNamespace

import pytest

from vlcompress.bench import harness
from vlcompress.studies import latency


def test_dense_counts_as_the_fastest_of_its_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"dense #0": 3.0, "dense #1": 2.0, "dense #2": 1.0, "ticket #0": 0.5}
    monkeypatch.setattr(harness, "interleave", lambda calls, effort: {name: [[seconds[name]]] * 5 for name in calls})
    monkeypatch.setattr(latency, "feed", lambda session, inputs: {})
    session = SimpleNamespace(run=print)
    found = latency._batch({"dense": [session] * 3, "ticket": [session]}, {}, 4, latency.EFFORT)
    assert found["dense"].p50_ms == 1000.0
    assert found["dense"].speedup.value == 1.0
    assert found["ticket"].speedup.value == 2.0
    assert found["ticket"].examples_per_s == 8.0

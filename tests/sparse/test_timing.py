"""The timing primitive alternates, warms up, and sees a difference that is there. Its clock is faked: no test waits."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from vlcompress.results import from_json, to_json
from vlcompress.sparse import timing
from vlcompress.sparse.choice import LayerChoice, choose, measure_and_choose
from vlcompress.sparse.timing import Effort, Timing, compare, interleave


@dataclass
class Clock:
    """A clock that only moves when a call says how long it takes."""

    now: float = 0.0
    seen: list[tuple[str, bool]] = field(default_factory=list)

    def perf_counter(self) -> float:
        """Return the time in seconds."""
        return self.now

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        """Make a call that takes so long, and that notes its name and whether garbage collection is on."""

        def take() -> None:
            self.seen.append((name, gc.isenabled()))
            self.now += seconds

        return take


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the timing module."""
    fake = Clock()
    monkeypatch.setattr(timing, "time", fake)
    return fake


def test_the_time_of_a_call_is_what_it_takes(clock: Clock) -> None:
    timings = compare({"a": clock.call("a", 0.25), "b": clock.call("b", 0.5)}, Effort(3, 1.0, 1))  # binary fractions
    assert timings["a"] == Timing(250_000.0, 0.0, 12)
    assert timings["b"] == Timing(500_000.0, 0.0, 6)


def test_every_round_measures_every_call_in_a_changing_order_with_gc_off(clock: Clock) -> None:
    bursts = interleave({name: clock.call(name, 0.001) for name in "ab"}, Effort(4, 0.0, 0))
    assert [len(bursts[name]) for name in "ab"] == [4, 4]
    assert len(clock.seen) == 2 * 4
    assert not any(enabled for _, enabled in clock.seen)
    assert gc.isenabled()
    assert {clock.seen[i][0] for i in range(0, len(clock.seen), 2)} == {"a", "b"}  # first of each round


def test_calls_warm_up_but_long_ones_only_once(clock: Clock) -> None:
    calls = {"short": clock.call("short", 0.001), "long": clock.call("long", 0.020)}
    bursts = interleave(calls, Effort(rounds=1, burst_s=0.0045, warmup=3))
    names = [name for name, _ in clock.seen]
    assert (names.count("short"), len(bursts["short"][0])) == (3 + 5, 5)
    assert (names.count("long"), len(bursts["long"][0])) == (1 + 1, 1)


def test_a_few_interrupted_calls_do_not_count() -> None:
    rounds = [[0.001] * 6 + [0.050] * 2, [0.001] * 8, [0.030] * 8]  # one round was slow throughout
    assert timing.timing(rounds).us == 1000.0


def test_a_round_counts_by_its_lower_quartile() -> None:
    assert timing.timing([[0.009, 0.002, 0.004, 0.001, 0.003, 0.007, 0.006, 0.008, 0.005]]).us == 3000.0


def test_the_spread_is_the_interquartile_range_of_the_rounds() -> None:
    assert timing.timing([[0.001 * one] for one in (1, 2, 3, 4, 100)]).spread_us == pytest.approx(50_500.0)


def test_garbage_collection_stays_off_where_it_was_off(clock: Clock) -> None:
    gc.disable()
    try:
        interleave({"a": clock.call("a", 0.001)}, Effort(1, 0.0, 0))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_slow_forms_drop_out_after_one_round_and_stay_on_record(clock: Clock) -> None:
    seconds = {"dense": 0.003, "a": 0.001, "b": 0.002, "c": 0.006}
    calls = {name: clock.call(name, value) for name, value in seconds.items()}
    choice = measure_and_choose(calls, Effort(rounds=3, burst_s=0.0, warmup=1))
    assert choice.picked == "a"
    assert {name: found.calls for name, found in choice.timings.items()} == {"dense": 3, "a": 3, "b": 3, "c": 1}


def test_dense_stays_unless_another_form_is_five_percent_faster() -> None:
    dense = Timing(100.0, 1.0, 10)
    assert choose({"dense": dense, "sparse": Timing(96.0, 1.0, 10)}).picked == "dense"
    assert choose({"dense": dense, "sparse": Timing(95.1, 1.0, 10)}).picked == "dense"
    assert choose({"dense": dense, "sparse": Timing(95.0, 1.0, 10)}).picked == "sparse"
    better = choose({"dense": dense, "sparse": Timing(94.0, 1.0, 10), "other": Timing(95.0, 1.0, 10)})
    assert better.picked == "sparse"
    assert "1.06x" in better.why


def test_a_choice_survives_json() -> None:
    choice = choose({"dense": Timing(100.0, 1.0, 10), "sparse": Timing(50.0, 1.5, 20)})
    assert from_json(LayerChoice, to_json(choice)) == choice

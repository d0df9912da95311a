"""The batcher alone, in front of an engine that waits until it is told to go on."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from itertools import chain, count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlcompress.serve.batcher import Answer, Batcher, Execution, Policy
from vlcompress.serve.padding import padding_of
from vlcompress.serve.refusal import Refusal, invalid
from vlcompress.serve.tensors import Arrays, TensorSpec

SPECS = (TensorSpec("x", "INT64", ("batch", "text")), TensorSpec("x_mask", "INT64", ("batch", "text")))


class Gated:
    """Gives back the sum of each row, when the gate is open; fails on a 13."""

    platform = backend = provider = "test"
    inputs = SPECS
    outputs = (TensorSpec("y", "INT64", ("batch",)), TensorSpec("same", "INT64", ("batch", "text")))
    rows_apart = True
    example_sizes: dict[str, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feeds: Arrays) -> Arrays:
        assert self.gate.wait(5)
        x = feeds["x"]
        self.shapes.append(x.shape)
        if (x == 13).any():
            raise invalid("thirteen") if (x == -1).any() else RuntimeError("secret")
        return {"y": (x * feeds["x_mask"]).sum(axis=1), "same": x}


class Counting:
    def __init__(self) -> None:
        self.executions: list[Execution] = []

    def executed(self, execution: Execution) -> None:
        self.executions.append(execution)


class Rig:
    def __init__(self, buckets: tuple[int, ...] = (), row_s: float = 0.0, **policy: Any) -> None:
        self.engine, self.counts = Gated(), Counting()
        chosen = Policy(**{"sessions": 1, "max_batch": 4, "window_s": 0.0, "queue_rows": 8, **policy})
        padding = padding_of(SPECS, {"text": buckets})
        self.batcher = Batcher(self.engine, padding, chosen, self.counts, row_s)

    def ask(self, *rows: list[int], within_s: float = 5.0, client: str = "") -> "asyncio.Future[Answer]":
        x = np.array(rows)
        deadline = asyncio.get_running_loop().time() + within_s
        sizes = {"batch": len(x), "text": x.shape[1]}
        return self.batcher.submit({"x": x, "x_mask": np.ones_like(x)}, sizes, len(x), deadline, client)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


async def blocked(rig: Rig) -> "asyncio.Future[Answer]":
    """Occupy the only session."""
    rig.engine.gate.clear()
    first = rig.ask([0])
    await asyncio.sleep(0)
    return first


def test_a_lone_request_does_not_wait_and_gets_its_own_rows() -> None:
    async def scenario() -> None:
        rig = Rig()
        answer = await rig.ask([1, 2], [3, 4])
        assert answer.outputs["y"].tolist() == [3, 7]
        assert answer.batch_rows == 2
        assert answer.queue_s < 0.05

    run(scenario)


def test_requests_that_wait_are_merged_up_to_the_largest_batch_and_told_apart() -> None:
    async def scenario() -> None:
        rig = Rig()
        first = await blocked(rig)
        asked = [rig.ask([i], [10 * i]) for i in range(1, 4)]  # 6 rows: 4 and 2
        rig.engine.gate.set()
        answers = await asyncio.gather(first, *asked)
        assert rig.engine.shapes == [(1, 1), (4, 1), (2, 1)]
        assert [answer.outputs["y"].tolist() for answer in answers[1:]] == [[1, 10], [2, 20], [3, 30]]
        assert [execution.rows for execution in rig.counts.executions] == [1, 4, 2]

    run(scenario)


def test_padding_buckets_merge_lengths_and_outputs_are_cut_back() -> None:
    async def scenario() -> None:
        rig = Rig(buckets=(4, 8))
        first = await blocked(rig)
        asked = [rig.ask([1, 2]), rig.ask([1, 2, 3]), rig.ask([1] * 5), rig.ask([1] * 9)]
        rig.engine.gate.set()
        answers = await asyncio.gather(first, *asked)
        assert sorted(rig.engine.shapes) == [(1, 4), (1, 8), (1, 9), (2, 4)]
        assert [answer.outputs["y"].tolist() for answer in answers[1:]] == [[3], [6], [5], [9]]
        assert answers[2].outputs["same"].tolist() == [[1, 2, 3]]

    run(scenario)


def test_of_lengths_that_cannot_be_merged_the_oldest_goes_first() -> None:
    async def scenario() -> None:
        rig = Rig(buckets=(4, 8, 12))
        first = await blocked(rig)
        asked = [rig.ask([1] * length) for length in (6, 2, 10)]
        rig.engine.gate.set()
        await asyncio.gather(first, *asked)
        assert rig.engine.shapes == [(1, 4), (1, 8), (1, 4), (1, 12)]

    run(scenario)


def test_an_axis_without_a_mask_is_never_padded() -> None:
    specs = (TensorSpec("x", "FP32", ("batch", "regions")),)
    assert padding_of(specs, {"regions": (8,)}).buckets == {}


def test_a_full_queue_is_503_at_once_counted_in_rows() -> None:
    async def scenario() -> None:
        rig = Rig()
        await blocked(rig)
        waiting = [rig.ask([1], [2], [3]), rig.ask([1], [2], [3])]
        with pytest.raises(Refusal, match="Exceeds maximum queue size") as caught:
            rig.ask([1], [2], [3])
        assert (caught.value.status, caught.value.reason) == (503, "queue_full")
        assert caught.value.headers["Retry-After"] == "1"
        waiting.append(rig.ask([1], [2]))
        assert rig.batcher.waiting_rows == 8
        assert rig.batcher.full
        rig.engine.gate.set()
        await asyncio.gather(*waiting)
        assert rig.batcher.waiting_rows == 0

    run(scenario)


def test_a_deadline_that_passes_in_the_queue_is_503_and_the_work_is_not_done() -> None:
    async def scenario() -> None:
        rig = Rig()
        first = await blocked(rig)
        late, other = rig.ask([5], within_s=0.05), rig.ask([6])
        with pytest.raises(Refusal, match="Request timeout expired") as caught:
            await late
        assert (caught.value.status, caught.value.reason) == (503, "deadline")
        assert rig.batcher.waiting_rows == 1
        rig.engine.gate.set()
        await asyncio.gather(first, other)
        assert rig.engine.shapes == [(1, 1), (1, 1)]

    run(scenario)


def test_a_deadline_holds_while_running_too() -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.engine.gate.clear()
        with pytest.raises(Refusal, match="timeout"):
            await rig.ask([1], within_s=0.05)
        rig.engine.gate.set()
        assert (await rig.ask([2])).outputs["y"].tolist() == [2]

    run(scenario)


def test_a_request_that_could_not_be_answered_in_time_is_refused_at_once() -> None:
    async def scenario() -> None:
        rig = Rig(row_s=1.0)
        await blocked(rig)
        with pytest.raises(Refusal, match="more than the request's deadline allows") as caught:
            rig.ask([1], [2], within_s=1.5)
        assert (caught.value.status, caught.value.reason) == (503, "overload")
        assert caught.value.headers["Retry-After"] == "2"
        rig.engine.gate.set()

    run(scenario)


def test_the_time_of_a_row_is_learned_a_fifth_from_each_execution() -> None:
    """It starts at 1 s, and one execution takes next to nothing: 0.8 s are expected."""

    async def scenario() -> None:
        rig = Rig(row_s=1.0)
        await rig.ask([1])
        await blocked(rig)
        with pytest.raises(Refusal, match="more than the request's deadline allows"):
            rig.ask([1], within_s=0.75)
        allowed = rig.ask([1], within_s=0.95)
        rig.engine.gate.set()
        assert (await allowed).outputs["y"].tolist() == [1]

    run(scenario)


def test_the_time_of_a_row_is_the_whole_executions_over_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 s to merge, 2 to run and 5 to split, for two rows: 4 s, of which a fifth counts beside 1 s that was known."""
    clock = chain([0.0, 1.0, 3.0, 8.0], count(8.0))
    monkeypatch.setattr(
        "vlcompress.serve.batcher.time", SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic)
    )

    async def scenario() -> None:
        rig = Rig(row_s=1.0)
        await rig.ask([1], [2])
        (execution,) = rig.counts.executions
        assert (execution.merge_s, execution.run_s, execution.split_s) == (1.0, 2.0, 5.0)
        rig.engine.gate.clear()
        rig.ask([0])
        with pytest.raises(Refusal, match=r"would take 1\.6 s"):
            rig.ask([1], within_s=1.5)
        rig.ask([1], within_s=1.7)
        rig.engine.gate.set()

    run(scenario)


def test_an_execution_that_fails_is_tried_once_and_not_learned_from() -> None:
    async def scenario() -> None:
        rig = Rig()
        with pytest.raises(Refusal, match="the model failed"):
            await rig.ask([13])
        assert rig.engine.shapes == [(1, 1)]
        assert rig.counts.executions == []

    run(scenario)


def test_of_two_that_were_merged_the_good_one_is_answered() -> None:
    async def scenario() -> None:
        rig = Rig()
        first = await blocked(rig)
        asked = [rig.ask([13]), rig.ask([4])]
        rig.engine.gate.set()
        _, failed, good = await asyncio.gather(first, *asked, return_exceptions=True)
        assert isinstance(failed, Refusal)
        assert isinstance(good, Answer)
        assert good.outputs["y"].tolist() == [4]

    run(scenario)


def test_sessions_share_the_time_that_is_expected() -> None:
    async def scenario() -> None:
        rig = Rig(row_s=1.0, sessions=2)
        rig.engine.gate.clear()
        running = [rig.ask([0]), rig.ask([0])]
        rig.ask([1], within_s=0.7)  # 0.5 s
        with pytest.raises(Refusal, match=r"would take 1\.0 s"):
            rig.ask([2], within_s=0.7)
        rig.engine.gate.set()
        await asyncio.gather(*running)

    run(scenario)


def test_a_deadline_that_can_just_be_met_is_accepted_and_one_that_has_passed_is_not() -> None:
    async def scenario() -> None:
        rig = Rig(row_s=1.0)
        with pytest.raises(Refusal, match=r"would take 0\.0 s, more than the request's deadline allows"):
            rig.ask([1], within_s=-0.5)
        await blocked(rig)
        loop = asyncio.get_running_loop()
        now = loop.time()
        loop.time = lambda: now  # type: ignore[method-assign]
        rig.ask([1], within_s=1.0)
        del loop.time
        rig.engine.gate.set()

    run(scenario)


def test_busy_is_what_waits_or_runs() -> None:
    async def scenario() -> None:
        rig = Rig()
        assert not rig.batcher.busy
        first = await blocked(rig)
        assert rig.batcher.waiting_rows == 0
        assert rig.batcher.busy
        second = rig.ask([1])
        rig.engine.gate.set()
        await asyncio.gather(first, second)
        assert not rig.batcher.busy

    run(scenario)


def test_threads_end_once_it_is_closed() -> None:
    async def scenario() -> None:
        rig = Rig(sessions=2)
        rig.batcher.close()
        for worker in rig.batcher._workers:
            worker.join(5)
            assert not worker.is_alive()

    run(scenario)


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def scenario() -> None:
        rig = Rig()
        first = await blocked(rig)
        gone, other = rig.ask([7]), rig.ask([8])
        gone.cancel()
        await asyncio.sleep(0)
        assert rig.batcher.waiting_rows == 1
        rig.engine.gate.set()
        await asyncio.gather(first, other)
        assert sum(shape[0] for shape in rig.engine.shapes) == 2

    run(scenario)


def test_a_window_waits_for_company_and_no_longer() -> None:
    async def scenario() -> None:
        rig = Rig(window_s=0.05)
        asked = [rig.ask([1]), rig.ask([2])]
        answers = await asyncio.gather(*asked)
        assert rig.engine.shapes == [(2, 1)]
        assert 0.04 < answers[0].queue_s < 0.5
        full = await asyncio.gather(*[rig.ask([i]) for i in range(4)])  # a full batch does not wait
        assert full[0].queue_s < 0.04

    run(scenario)


def test_a_window_begins_with_the_oldest_request_that_still_waits() -> None:
    async def scenario() -> None:
        rig = Rig(window_s=0.1)
        rig.ask([1]).cancel()
        await asyncio.sleep(0.06)
        assert (await rig.ask([2])).queue_s > 0.09

    run(scenario)


def test_a_window_is_waited_for_and_not_polled() -> None:
    async def scenario() -> None:
        loop, timers = asyncio.get_running_loop(), list[float]()
        call_at = loop.call_at

        def counted(when: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
            timers.append(when)
            return call_at(when, *rest, **more)

        loop.call_at = counted  # type: ignore[method-assign, assignment]
        await Rig(window_s=0.05).ask([1])
        assert len(timers) <= 4  # the deadline, the window; a clock may wake a little early

    run(scenario)


def test_without_merging_nobody_waits_for_company_nor_gets_it() -> None:
    async def scenario() -> None:
        rig = Rig(merges=False, window_s=0.5)
        assert (await rig.ask([1])).queue_s < 0.4
        first = await blocked(rig)
        asked = [rig.ask([1]), rig.ask([2])]
        rig.engine.gate.set()
        await asyncio.gather(first, *asked)
        assert rig.engine.shapes == [(1, 1)] * 4

    run(scenario)


def test_a_batch_is_filled_and_not_overfilled_by_single_rows() -> None:
    async def scenario() -> None:
        rig = Rig()
        first = await blocked(rig)
        asked = [rig.ask([index]) for index in range(5)]
        rig.engine.gate.set()
        await asyncio.gather(first, *asked)
        assert rig.engine.shapes == [(1, 1), (4, 1), (1, 1)]

    run(scenario)


def test_a_full_execution_begins_without_the_event_loop_and_a_part_of_one_waits_for_more() -> None:
    async def scenario() -> None:
        rig = Rig(queue_rows=16)
        first = await blocked(rig)
        full, second, part = rig.ask(*[[1]] * 4), rig.ask(*[[2]] * 4), rig.ask([3])
        rig.engine.gate.set()
        end = time.monotonic() + 5
        while len(rig.engine.shapes) < 2 and time.monotonic() < end:
            time.sleep(0.001)  # the event loop stands still, and the second execution comes all the same
        time.sleep(0.02)
        assert rig.engine.shapes == [(1, 1), (4, 1)]  # one ahead, no more
        more = rig.ask([4])
        answers = await asyncio.gather(first, full, second, part, more)
        assert [answer.batch_rows for answer in answers] == [1, 4, 4, 2, 2]
        assert not rig.batcher.busy

    run(scenario)


def test_what_is_ahead_counts_as_waiting_and_is_not_run_once_nobody_wants_it() -> None:
    async def scenario() -> None:
        rig = Rig()
        first = await blocked(rig)
        ahead, rest = [rig.ask([1], [1]), rig.ask([1], [1])], rig.ask(*[[2]] * 4)
        assert rig.batcher.waiting_rows == 8
        ahead[0].cancel()
        await asyncio.sleep(0)
        assert rig.batcher.waiting_rows == 6
        ahead[1].cancel()
        rig.engine.gate.set()
        assert (await rest).outputs["y"].tolist() == [2] * 4
        assert rig.engine.shapes == [(1, 1), (4, 1)]
        assert (await first).batch_rows == 1
        assert rig.batcher.waiting_rows == 0
        assert not rig.batcher.busy

    run(scenario)


def test_one_request_that_fails_does_not_fail_those_it_was_merged_with() -> None:
    async def scenario() -> None:
        rig = Rig()
        first = await blocked(rig)
        asked = [rig.ask([1, 1]), rig.ask([13, -1]), rig.ask([13, 0]), rig.ask([2, 2])]
        rig.engine.gate.set()
        found = await asyncio.gather(first, *asked, return_exceptions=True)
        assert found[1].outputs["y"].tolist() == [2]  # type: ignore[union-attr]
        assert found[4].outputs["y"].tolist() == [4]  # type: ignore[union-attr]
        assert isinstance(found[2], Refusal)
        assert (found[2].status, str(found[2])) == (400, "thirteen")
        assert isinstance(found[3], Refusal)
        assert found[3].status == 500
        assert "secret" not in str(found[3])

    run(scenario)


def test_two_sessions_run_at_the_same_time() -> None:
    async def scenario() -> None:
        rig = Rig(sessions=2)
        rig.engine.gate.clear()
        asked = [rig.ask([1]), rig.ask([2])]
        assert rig.batcher.waiting_rows == 0
        rig.engine.gate.set()
        await asyncio.gather(*asked)
        assert rig.engine.shapes == [(1, 1), (1, 1)]

    run(scenario)


def test_a_client_that_fills_the_queue_gives_way_to_others_until_they_have_as_much() -> None:
    async def scenario() -> None:
        rig = Rig(max_batch=1)
        first = await blocked(rig)
        greedy = [rig.ask([index], client="a") for index in range(8)]
        assert rig.batcher.refuses("a")
        assert not rig.batcher.refuses("b")
        with pytest.raises(Refusal, match="Exceeds maximum queue size"):
            rig.ask([1], client="a")
        modest = [rig.ask([100 + index], client="b") for index in range(4)]
        with pytest.raises(Refusal, match="Exceeds maximum queue size"):
            rig.ask([1], client="b")  # four each: nobody has more than the other
        assert rig.batcher.waiting_rows == 8
        rig.engine.gate.set()
        found = await asyncio.gather(*greedy, *modest, return_exceptions=True)
        await first
        answers = [int(one.outputs["y"][0]) for one in found if isinstance(one, Answer)]
        assert answers == [0, 1, 2, 3, 100, 101, 102, 103]  # the newest of the greedy client's were given up
        refusals = [one for one in found if isinstance(one, Refusal)]
        assert {(one.status, one.reason) for one in refusals} == {(503, "queue_share")}
        assert {one.headers["Retry-After"] for one in refusals} == {"1"}
        assert rig.batcher._held == {}

    run(scenario)


@pytest.mark.parametrize(("greedy", "modest", "gives_way"), [(5, 3, True), (4, 3, False), (4, 4, False)])
def test_who_has_one_more_than_the_other_would_have_gives_way(greedy: int, modest: int, gives_way: bool) -> None:
    async def scenario() -> None:
        rig = Rig(max_batch=1, queue_rows=greedy + modest)
        await blocked(rig)
        for client, requests in (("a", greedy), ("b", modest)):
            for _ in range(requests):
                rig.ask([1], client=client).add_done_callback(asyncio.Future.exception)
        assert rig.batcher.refuses("b") is not gives_way
        if gives_way:
            rig.ask([1], client="b")
        else:
            with pytest.raises(Refusal, match="Exceeds maximum queue size"):
                rig.ask([1], client="b")
        rig.engine.gate.set()

    run(scenario)


def test_a_deadline_that_one_clients_queue_makes_hopeless_is_not_the_others_loss() -> None:
    async def scenario() -> None:
        rig = Rig(row_s=1.0, max_batch=1)
        await blocked(rig)
        greedy = [rig.ask([index], client="a", within_s=60.0) for index in range(5)]
        with pytest.raises(Refusal, match="more than the request's deadline allows"):
            rig.ask([1], client="a", within_s=3.5)
        rig.ask([1], client="b", within_s=3.5)
        await asyncio.sleep(0)
        assert [one.done() for one in greedy] == [False, False, True, True, True]
        rig.engine.gate.set()

    run(scenario)

"""Dynamic batching: a bounded queue counted in rows, and executions that take as many waiting requests as fit.

All state belongs to the event loop; threads only run the model. Requests are merged while every session is busy, so
that a lone request never waits for company unless a batch window is set. A full execution, which nothing can join any
more, is handed to a busy session ahead: it goes on without asking the event loop first.
"""

import asyncio
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from queue import SimpleQueue
from typing import Protocol

from vlcompress.serve.encode import refuse_non_finite
from vlcompress.serve.engines.base import Engine
from vlcompress.serve.padding import Padding, Shapes, unpadded
from vlcompress.serve.refusal import Refusal, busy
from vlcompress.serve.tensors import Arrays

logger = logging.getLogger(__name__)

_SLOW, _FAST = 0.2, 0.8
"""Weights of the newest and of all earlier executions in the running estimate of the time that a row takes."""


@dataclass(frozen=True)
class Answer:
    """What a request gets: its rows of every output, and where the time went, in seconds."""

    outputs: Arrays
    queue_s: float
    inference_s: float
    batch_rows: int


@dataclass(frozen=True)
class Execution:
    """One execution of the model, for whoever counts them; times in seconds."""

    rows: int
    waits: list[float]
    merge_s: float
    run_s: float
    split_s: float


class Observer(Protocol):
    """Told about every execution, on the event loop."""

    def executed(self, execution: Execution) -> None:
        """Count it."""


@dataclass(frozen=True)
class Policy:
    """How to batch.

    Attributes:
        sessions: executions at the same time.
        max_batch: rows of one execution.
        window_s: how long the oldest request may wait for others.
        queue_rows: rows that may wait.
        merges: whether requests may share an execution.
    """

    sessions: int
    max_batch: int
    window_s: float
    queue_rows: int
    merges: bool = True


@dataclass(eq=False)
class _Waiting:
    """A request in the queue; one that was handed ahead stays in it until its execution begins."""

    inputs: Arrays
    sizes: Mapping[str, int]
    rows: int
    arrived: float
    deadline: float
    future: "asyncio.Future[Answer]"
    client: str
    queued: bool = True
    ahead: bool = False


@dataclass(eq=False)
class _Batch:
    """Requests that are run together."""

    items: list[_Waiting]
    target: Shapes
    loop: asyncio.AbstractEventLoop
    started: float = 0.0
    outputs: list[Arrays | Exception] = field(default_factory=list)
    merge_s: float = 0.0
    run_s: float = 0.0
    split_s: float = 0.0

    @cached_property
    def rows(self) -> int:
        return sum(item.rows for item in self.items)


def batched(engine: Engine) -> bool:
    """Say whether requests can share an execution: the first axis of every tensor is free."""
    return all(spec.batched for spec in (*engine.inputs, *engine.outputs))


class Batcher:
    """The queue in front of one model."""

    def __init__(self, engine: Engine, padding: Padding, policy: Policy, observer: Observer, row_s: float) -> None:
        """Make an empty queue.

        Args:
            engine: runs the model.
            padding: its buckets.
            policy: how to batch.
            observer: told about executions.
            row_s: seconds that a row takes in a full batch, as far as known.
        """
        self._engine, self._padding, self._policy, self._observer = engine, padding, policy, observer
        self._engine_batched = batched(engine)
        self._groups: dict[Shapes, deque[_Waiting]] = {}
        self._idle = policy.sessions  # less than 0: so many executions are handed ahead
        self._ahead: deque[_Batch] = deque()
        self._row_s = row_s
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self._workers = [threading.Thread(target=self._work, name="infer", daemon=True) for _ in range(policy.sessions)]
        for worker in self._workers:
            worker.start()
        self._wake: asyncio.TimerHandle | None = None
        self.waiting_rows = 0
        self._held: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        """Whether a request of one row has no place."""
        return self.waiting_rows >= self._policy.queue_rows

    def refuses(self, client: str) -> bool:
        """Whether a request of one row would be refused: none has to give way to it."""
        return self.full and self._greediest(client, 1) is None

    @property
    def busy(self) -> bool:
        """Whether anything is waiting or running."""
        return self.waiting_rows > 0 or self._idle < self._policy.sessions

    def submit(
        self, inputs: Arrays, sizes: Mapping[str, int], rows: int, deadline: float, client: str = ""
    ) -> "asyncio.Future[Answer]":
        """Queue a request. Where there is no room, the newest one of the client that has most rows waiting gives way.

        Args:
            inputs: checked, `rows` rows each.
            sizes: of the named axes.
            rows: of the request.
            deadline: on the event loop's clock; the future fails then, whatever the request is doing.
            client: who asks.

        Returns:
            A future of the answer; cancel it when the client is gone. It fails with a Refusal.

        Raises:
            Refusal: 503: the queue is full, or the answer could not come before the deadline.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        while (refusal := self._no_room(rows, deadline - now)) is not None:
            greediest = self._greediest(client, rows)
            if greediest is None or not self._give_way(greediest):
                raise refusal
        item = _Waiting(inputs, sizes, rows, now, deadline, loop.create_future(), client)
        timer = loop.call_at(deadline, self._expire, item)
        item.future.add_done_callback(lambda _: self._done(item, timer))
        self._groups.setdefault(self._padding.target(sizes), deque()).append(item)
        self.waiting_rows += rows
        self._held[client] += rows
        self._pump()
        return item.future

    def refusal(self) -> Refusal:
        """Refuse a request that finds the queue full."""
        return busy("Exceeds maximum queue size", "queue_full", max(1, math.ceil(self._expected_s(0))))

    def close(self) -> None:
        """Let the threads end once nothing is left to run."""
        for _ in self._workers:
            self._batches.put(None)

    def _no_room(self, rows: int, allowed_s: float) -> Refusal | None:
        """Say why a request cannot be queued now; None if it can."""
        if self.waiting_rows + rows > self._policy.queue_rows:
            return self.refusal()
        expected_s = self._expected_s(rows)
        if expected_s <= allowed_s:
            return None
        text = f"the answer would take {expected_s:.1f} s, more than the request's deadline allows"
        return busy(text, "overload", math.ceil(expected_s))

    def _greediest(self, client: str, rows: int) -> str | None:
        """Name the client with most rows waiting, if it has more than this one would have."""
        most = max(self._held, key=self._held.__getitem__, default=client)
        return most if self._held[most] > self._held[client] + rows else None

    def _give_way(self, client: str) -> bool:
        """Refuse the newest request that a client has waiting; False if it has none."""
        queues = chain(self._groups.values(), (batch.items for batch in self._ahead))
        waiting = (item for queue in queues for item in queue if item.queued and item.client == client)
        item = max(waiting, key=lambda one: one.arrived, default=None)
        if item is None:
            return False
        if not item.future.done():
            text = "the queue is full, and this client has most of it: another one's request took the place"
            item.future.set_exception(busy(text, "queue_share", max(1, math.ceil(self._expected_s(0)))))
        self._leave(item)
        return True

    def _expected_s(self, rows: int) -> float:
        """Estimate when a request of so many rows would be answered, were it queued now."""
        return (self.waiting_rows + rows) * self._row_s / self._policy.sessions if self._idle <= 0 else 0.0

    def _expire(self, item: _Waiting) -> None:
        if not item.future.done():
            item.future.set_exception(busy("Request timeout expired", "deadline"))

    def _done(self, item: _Waiting, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._leave(item)

    def _leave(self, item: _Waiting) -> None:
        """Take a request out of the count; one that expired stays in its deque until that is next looked at."""
        if item.queued:
            item.queued = False
            if item.future.done() and not item.ahead:  # of one ahead a thread may be reading them
                item.inputs = {}
            self.waiting_rows -= item.rows
            self._held[item.client] -= item.rows
            if not self._held[item.client]:
                del self._held[item.client]

    def _pump(self) -> None:
        """Start executions while there are sessions and requests that are ready; full ones one ahead a session."""
        while self._idle > -self._policy.sessions and (target := self._ready()) is not None:
            if self._idle <= 0 and not self._fills(self._groups[target]):
                return
            items = self._take(target)
            if items:
                self._start(items, target)

    def _ready(self) -> Shapes | None:
        """Choose the group whose oldest request came first, among those that may go."""
        self._drop_finished()
        if not self._groups:
            return None
        now = asyncio.get_running_loop().time()
        ready = {target: group[0].arrived for target, group in self._groups.items() if self._may_go(group, now)}
        if ready:
            return min(ready, key=lambda target: ready[target])
        self._wake_at(min(group[0].arrived for group in self._groups.values()) + self._policy.window_s)
        return None

    def _may_go(self, group: deque[_Waiting], now: float) -> bool:
        window = self._policy.window_s if self._policy.merges else 0.0
        return now >= group[0].arrived + window or self._fills(group)

    def _fills(self, group: deque[_Waiting]) -> bool:
        return sum(item.rows for item in group) >= self._policy.max_batch

    def _drop_finished(self) -> None:
        for target, group in list(self._groups.items()):
            while group and group[0].future.done():
                group.popleft()
            if not group:
                del self._groups[target]

    def _wake_at(self, when: float) -> None:
        if self._wake is None or self._wake.cancelled() or self._wake.when() > when:
            if self._wake is not None:
                self._wake.cancel()
            self._wake = asyncio.get_running_loop().call_at(when, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._pump()

    def _take(self, target: Shapes) -> list[_Waiting]:
        """Take requests from the front of a group while they fit into one execution."""
        group, items, rows = self._groups[target], list[_Waiting](), 0
        while group and (group[0].future.done() or rows + group[0].rows <= self._policy.max_batch):
            item = group.popleft()
            if not item.future.done():
                items.append(item)
                rows += item.rows if self._policy.merges else self._policy.max_batch
        if not group:
            del self._groups[target]
        return items

    def _start(self, items: list[_Waiting], target: Shapes) -> None:
        batch = _Batch(items, target, asyncio.get_running_loop())
        if self._idle > 0:
            self._begun(batch)
        else:
            self._ahead.append(batch)
            for item in items:
                item.ahead = True
        self._idle -= 1
        self._batches.put(batch)

    def _begun(self, batch: _Batch) -> None:
        for item in batch.items:
            self._leave(item)

    def _work(self) -> None:
        """Run batches on a thread of its own: one hand-over each way, which an executor's futures would double."""
        while (batch := self._batches.get()) is not None:
            self._run(batch)
            with suppress(RuntimeError):  # the event loop is gone, and with it everyone who waits
                batch.loop.call_soon_threadsafe(self._finish, batch)
            del batch

    def _run(self, batch: _Batch) -> None:
        """Run a batch on a thread; if it fails, each of its requests alone, so that one cannot fail the others."""
        batch.started = time.monotonic()  # the event loop's clock, which may only be read there
        batch.items = [item for item in batch.items if not item.future.done()]  # given up while they were ahead
        try:
            batch.outputs = list(self._execute(batch, batch.items)) if batch.items else []
        except Exception as error:
            if len(batch.items) == 1:
                batch.outputs = [_known(error)]
            else:
                batch.outputs = [self._alone(batch, item) for item in batch.items]

    def _alone(self, batch: _Batch, item: _Waiting) -> Arrays | Exception:
        try:
            return self._execute(batch, [item])[0]
        except Exception as error:
            return _known(error)

    def _execute(self, batch: _Batch, items: Sequence[_Waiting]) -> list[Arrays]:
        start = time.perf_counter()
        feeds = self._padding.merge([item.inputs for item in items], batch.target)
        merged = time.perf_counter()
        results = self._engine.run(feeds)
        ran = time.perf_counter()
        refuse_non_finite(results)
        split = self._split(results, items)
        batch.merge_s, batch.run_s, batch.split_s = merged - start, ran - merged, time.perf_counter() - ran
        return split

    def _split(self, results: Arrays, items: Sequence[_Waiting]) -> list[Arrays]:
        if not self._engine_batched:
            return [results]
        parts, at = [], 0
        for item in items:
            rows = slice(at, at + item.rows)
            parts.append(
                {spec.name: unpadded(results[spec.name][rows], spec, item.sizes) for spec in self._engine.outputs}
            )
            at += item.rows
        return parts

    def _finish(self, batch: _Batch) -> None:
        self._idle += 1
        if self._ahead:  # the thread has gone on with it
            self._begun(self._ahead.popleft())
        waits = [batch.started - item.arrived for item in batch.items]
        for index, item in enumerate(batch.items):
            found = batch.outputs[index]
            item.inputs = {}
            if item.future.done():
                continue
            if isinstance(found, dict):
                item.future.set_result(Answer(found, waits[index], batch.run_s, batch.rows))
            else:
                item.future.set_exception(_known(found))
        if batch.run_s:
            seconds = (batch.merge_s + batch.run_s + batch.split_s) / batch.rows
            self._row_s = _SLOW * seconds + _FAST * self._row_s if self._row_s else seconds
            self._observer.executed(Execution(batch.rows, waits, batch.merge_s, batch.run_s, batch.split_s))
        self._pump()


def _known(error: BaseException) -> Refusal:
    """Turn whatever a model raises into a refusal; what is not one yet is logged, and not told to the client."""
    if isinstance(error, Refusal):
        return error
    logger.error("the model failed", exc_info=error)
    return Refusal(500, "the model failed on this request; the server's log says why", "model_error")

"""How far a training is: one line at the foot of a terminal, a plain line a minute elsewhere."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

EVERY = 60.0
"""Seconds between plain lines."""
FIRST = 5.0
"""Seconds of a run's first steps before it is said how long all takes."""
WAITED = 0.1
"""Share of a training's time that may go by for want of batches before it is said."""


class Progress:
    """Tell of steps, their speed, and the time left of the training and of all trainings of the command.

    Args:
        say: prints a line.
        shown: shows a line in place of the last one, on a terminal; None elsewhere.
        clock: gives seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        shown: Callable[[str], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._shown, self._clock = say, shown, clock
        self._planned, self._begun, self._estimated, self._took = 0, 0, False, list[float]()

    def plan(self, trainings: int) -> None:
        """Expect at most so many trainings."""
        self._planned = trainings

    def begin(self, label: str, hyper: Any) -> None:
        """Expect the steps of a training."""
        self._label, self._hyper, self._begun = label, hyper, self._begun + 1
        self._started = self._told = self._clock()
        self._first: int | None = None
        self._last: Any = None

    def step(self, entry: Any) -> None:
        """Take in a step; speed is counted from the second one that this process does."""
        now, self._last = self._clock(), entry
        if self._first is None:
            self._first, self._since = entry.step, now
            return
        speed = (entry.step - self._first) / max(now - self._since, 1e-9)
        left = (self._hyper.steps - entry.step) / speed
        self._estimate(now, left)
        line = f"{self._label}: step {entry.step}/{self._hyper.steps}, loss {entry.loss:.3f}, {self._rate(speed)}, "
        line += f"{_spelt(left)} left{self._of_all(left, now)}"
        if self._shown is not None:
            self._shown(line)
        elif now - self._told >= EVERY:
            self._told = now
            self._say(line)

    def end(self) -> None:
        """Close the training; say so if reading was what it waited for."""
        self._took.append(self._clock() - self._started)
        seconds, waited = (self._last.seconds, self._last.waited) if self._last else (0.0, 0.0)
        if seconds >= FIRST and waited > WAITED * seconds:
            self._say(
                f"warning: {100 * waited / seconds:.0f} % of this training was waiting for examples to be read: "
                "--readers has more threads read, `vlcompress data import` makes a store that is read faster, and bf16 "
                "or more devices gain nothing here"
            )

    def _rate(self, speed: float) -> str:
        if self._hyper.tokens:
            return f"{speed:.2g} steps/s"
        return f"{speed * self._hyper.batch:.3g} examples/s"

    def _of_all(self, left: float, now: float) -> str:
        more = self._planned - self._begun
        if more <= 0:
            return ""
        return f" ({_spelt(self._all(left, now))} of all {self._planned} at most)"

    def _all(self, left: float, now: float) -> float:
        """Count every training still to come as long as those done, or as this one."""
        each = sum(self._took) / len(self._took) if self._took else now - self._started + left
        return left + each * (self._planned - self._begun)

    def _estimate(self, now: float, left: float) -> None:
        if not self._estimated and now - self._since >= FIRST:
            self._estimated = True
            whole = f", {_spelt(self._all(left, now))} for all {self._planned} at most" if self._planned > 1 else ""
            self._say(f"about {_spelt(left)} for this training{whole}, scoring not counted")


def _spelt(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def training_progress(say: Callable[[str], None]) -> Progress:
    """Make the progress of a command's trainings, which a terminal shows until the command ends."""
    if not sys.stderr.isatty():
        return Progress(say, None)
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    click.get_current_context().call_on_close(live.stop)

    def shown(line: str) -> None:
        live.start()  # does nothing once it has been started
        live.update(f"  {line}")

    return Progress(say, shown)

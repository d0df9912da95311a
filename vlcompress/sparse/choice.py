"""The rule by which measured timings decide how a layer runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlcompress.sparse.timing import Call, Effort, Timing, compare

MARGIN = 0.05
"""A sparse form must be at least this much faster than dense: below it, noise would decide."""


FINALISTS = 2
"""Sparse forms that are measured in full, after one round for each form."""


@dataclass(frozen=True)
class Choice:
    """What was picked for a layer in one runtime, and from which numbers.

    Attributes:
        picked: "dense" or the name of a sparse form.
        why: one sentence for people.
        timings: every measured form by name, "dense" among them; empty where nothing was worth measuring.
    """

    picked: str
    why: str
    timings: Mapping[str, Timing] = field(default_factory=dict)

    @classmethod
    def untested(cls, why: str) -> "Choice":
        """Stay dense without measuring."""
        return cls("dense", why)

    def to_json(self) -> dict[str, Any]:
        """Give a JSON object; `from_json` reads it back."""
        timings = {name: vars(timing) for name, timing in self.timings.items()}
        return {"picked": self.picked, "why": self.why, "timings": timings}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Choice":
        """Read what `to_json` gave."""
        timings = {name: Timing(**timing) for name, timing in document["timings"].items()}
        return cls(document["picked"], document["why"], timings)


def choose(timings: Mapping[str, Timing], margin: float = MARGIN) -> Choice:
    """Pick the fastest form, dense unless another takes at most (1 - margin) of dense's time.

    Args:
        timings: by form name; must hold "dense".
        margin: in [0, 1).
    """
    dense = timings["dense"].us
    others = {name: timing.us for name, timing in timings.items() if name != "dense"}
    best = min(others, key=lambda name: others[name])
    ratio = dense / others[best]
    if others[best] <= (1 - margin) * dense:
        return Choice(best, f"{best} is {ratio:.2f}x as fast as dense", timings)
    return Choice("dense", f"the fastest sparse form, {best}, has only {ratio:.2f}x the speed of dense", timings)


def measure_and_choose(calls: Mapping[str, Call], effort: Effort) -> Choice:
    """Measure forms side by side and pick one; the slower ones are dropped after a first round.

    Args:
        calls: by form name; must hold "dense".
        effort: how long to measure those that are left.
    """
    first = compare(calls, replace(effort, rounds=1))
    ranked = sorted((name for name in calls if name != "dense"), key=lambda name: first[name].us)
    finalists = {name: calls[name] for name in ("dense", *ranked[:FINALISTS])}
    timings = compare(finalists, effort)
    return replace(choose(timings), timings={**first, **timings})

"""Ten annotators who do not always agree: what turns a true answer into VQA's soft scores.

An annotator goes wrong now and then, more often where the scene makes the answer doubtful, and then gives what is
easily taken for the truth: a neighbouring number, a similar colour or shape.
"""

from random import Random

from vlcompress.data.scenes.questions import SceneQuestion
from vlcompress.data.scenes.world import MAX_THINGS

ANNOTATORS = 10
_ERROR_RATE = 0.02
_HARD_ERROR_RATE = 0.17

_MISTAKEN_FOR: dict[str, tuple[str, ...]] = {
    "yes": ("no",),
    "no": ("yes",),
    "red": ("orange", "purple"),
    "orange": ("red", "yellow"),
    "yellow": ("orange", "white"),
    "green": ("blue", "yellow"),
    "blue": ("purple", "green"),
    "purple": ("blue", "red"),
    "white": ("yellow",),
    "circle": ("ring",),
    "ring": ("circle",),
    "square": ("triangle", "cross"),
    "triangle": ("star", "square"),
    "star": ("cross", "triangle"),
    "cross": ("star", "square"),
    "small": ("large",),
    "large": ("small",),
    "plain": ("dotted",),
    "striped": ("dotted",),
    "dotted": ("striped", "plain"),
}


def annotate(asked: SceneQuestion, rng: Random) -> tuple[tuple[str, str], ...]:
    """Ask ten annotators for (answer, confidence); confidence is "yes", "maybe" or "no" as in VQA v2."""
    rate = _HARD_ERROR_RATE if asked.hard else _ERROR_RATE
    return tuple(_annotator(asked.answer, rate, rng) for _ in range(ANNOTATORS))


def majority(answers: tuple[tuple[str, str], ...]) -> str:
    """Find the commonest answer, the first given among equals."""
    given = [answer for answer, _ in answers]
    return max(given, key=given.count)


def _annotator(answer: str, error_rate: float, rng: Random) -> tuple[str, str]:
    if rng.random() < error_rate:
        return rng.choice(_mistaken_for(answer)), rng.choice(("yes", "maybe", "no"))
    return answer, "yes" if rng.random() < 0.9 else "maybe"


def _mistaken_for(answer: str) -> tuple[str, ...]:
    if not answer.isdigit():
        return _MISTAKEN_FOR[answer]
    near = (int(answer) - 1, int(answer) + 1)
    return tuple(str(number) for number in near if 0 <= number <= MAX_THINGS)

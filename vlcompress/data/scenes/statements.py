"""Statements about one scene (SNLI-VE's hypotheses) and about two (NLVR2's), true or false by construction.

The words are those of the questions, so that every built-in task shares one vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from vlcompress.data.scenes.phrases import Description, counted, descriptions
from vlcompress.data.scenes.questions import related, shown_and_missing
from vlcompress.data.scenes.world import Scene

_TRIES = 200


@dataclass(frozen=True)
class Hypotheses:
    """Three sentences about one picture: one that it shows to be true, one false, and one that it cannot decide."""

    entailment: str
    contradiction: str
    neutral: str


def hypotheses(scene: Scene, rng: Random) -> Hypotheses:
    """Make three sentences about a scene; true and false come from one template, so that only the picture tells."""
    while True:
        said = rng.choice(_TEMPLATES)(scene, rng)
        if said is not None:
            return Hypotheses(*said, _undecided(scene, rng))


def _exists(scene: Scene, rng: Random) -> tuple[str, str] | None:
    return shown_and_missing(scene, rng, "There is {} in the picture.", "You see {} in the picture.", "There is {}.")


def _not_exists(scene: Scene, rng: Random) -> tuple[str, str] | None:
    said = shown_and_missing(scene, rng, "You do not see {}.", "There is not {} in the picture.")
    return said and (said[1], said[0])


def _number(scene: Scene, rng: Random) -> tuple[str, str]:
    description = rng.choice(descriptions(scene, 2))
    count = len(description.among(scene))
    wrong = rng.choice([number for number in range(1, 5) if number != count])
    return counted(description, scene), counted(description, scene, wrong)


def _place(scene: Scene, rng: Random) -> tuple[str, str] | None:
    said = related(scene, rng, "The {one} is {relation} the {other}.")
    return said and said[:2]


_TEMPLATES: Sequence[Callable[[Scene, Random], tuple[str, str] | None]] = (_exists, _not_exists, _number, _place)
"""Each gives a true and a false sentence, or None where the scene offers no such pair."""


def _undecided(scene: Scene, rng: Random) -> str:
    """Speak of what is outside of the picture, which the picture neither shows nor rules out."""
    description = rng.choice(descriptions(scene, 2))
    words = rng.choice(
        (
            "There are more {plural} than you see.",
            "There is {one} to the left of the picture.",
            "There is {one} below the picture.",
            "There is {one} that you do not see in the picture.",
        )
    )
    return words.format(plural=description.plural, one=description.with_article)


Pair = tuple[Scene, Scene]


@dataclass(frozen=True)
class Statement:
    """A sentence about a left and a right picture.

    Attributes:
        text: the sentence.
        holds: whether it is true of a pair.
    """

    text: str
    holds: Callable[[Pair], bool]


def statement(pairs: Sequence[Pair], rng: Random) -> Statement | None:
    """Make a sentence that is true of exactly half of the pairs, as NLVR2's writers were asked for.

    Args:
        pairs: an even number of pairs of scenes.
        rng: chooses.

    Returns:
        The statement; None where none was found in many tries.
    """
    for _ in range(_TRIES):
        proposed = rng.choice(_PAIR_TEMPLATES)(rng.choice(pairs), rng)
        if 2 * sum(proposed.holds(pair) for pair in pairs) == len(pairs):
            return proposed
    return None


def _shown(pair: Pair, rng: Random) -> Description:
    """Describe something that one of the two pictures shows."""
    return rng.choice(descriptions(rng.choice(pair), 2))


def _on_both_sides(pair: Pair, rng: Random) -> Statement:
    what = _shown(pair, rng)
    text = f"There is {what.with_article} in the left picture and in the right picture."
    return Statement(text, lambda two: all(what.among(scene) for scene in two))


def _on_one_side(pair: Pair, rng: Random) -> Statement:
    what, side = _shown(pair, rng), rng.choice((0, 1))
    names = ("left", "right")
    text = f"There is {what.with_article} in the {names[side]} picture and not in the {names[1 - side]} picture."
    return Statement(text, lambda two: bool(what.among(two[side])) and not what.among(two[1 - side]))


def _more(pair: Pair, rng: Random) -> Statement:
    what, side = _shown(pair, rng), rng.choice((0, 1))
    names = ("left", "right")
    text = f"There are more {what.plural} in the {names[side]} picture than in the {names[1 - side]} picture."
    return Statement(text, lambda two: len(what.among(two[side])) > len(what.among(two[1 - side])))


def _as_many(pair: Pair, rng: Random) -> Statement:
    what = _shown(pair, rng)
    text = f"There are as many {what.plural} in the left picture as in the right picture."
    return Statement(text, lambda two: len(what.among(two[0])) == len(what.among(two[1])))


def _one_each(pair: Pair, rng: Random) -> Statement:
    here, there = rng.choice(descriptions(pair[0], 2)), rng.choice(descriptions(pair[1], 2))
    text = f"There is {here.with_article} in the left picture and {there.with_article} in the right picture."
    return Statement(text, lambda two: bool(here.among(two[0])) and bool(there.among(two[1])))


_PAIR_TEMPLATES: Sequence[Callable[[Pair, Random], Statement]] = (
    _on_both_sides,
    _on_one_side,
    _more,
    _as_many,
    _one_each,
)

"""Questions about tagged things with four answers and four rationales each, in the manner of VCR.

A tag is a thing's place in the scene's list: a sentence names it as a list of indices, as VCR's files do. The things
are VCR's people here; a rationale is right where it tells what the tagged thing looks like and where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from vlcompress.data.scenes.phrases import describe
from vlcompress.data.scenes.world import COLORS, SHAPES, SIZES, TEXTURES, Scene, Thing

CHOICES = 4
_VALUES = {"size": SIZES, "color": COLORS, "texture": TEXTURES, "shape": SHAPES}

Token = str | list[int]
Sentence = list[Token]


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its choices.

    Attributes:
        question: words; a tag is a list of indices.
        answers, rationales: four sentences each.
        answer, rationale: which of them is right.
    """

    question: Sentence
    answers: list[Sentence]
    rationales: list[Sentence]
    answer: int
    rationale: int


def in_order(scene: Scene) -> Scene:
    """Sort the scene's things from left to right, the order in which they are tagged."""
    return Scene(tuple(sorted(scene.things, key=lambda thing: thing.x)), scene.ground, scene.seed)


def choice(scene: Scene, rng: Random) -> ChoiceQuestion:
    """Ask for the colour or the shape of one tagged thing of a scene whose things are in order."""
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    attribute = rng.choice(("color", "shape"))
    value = getattr(thing, attribute)
    wrong = rng.sample([other for other in _VALUES[attribute] if other != value], CHOICES - 1)
    answers, answer = _shuffled([_answer(index, one) for one in (value, *wrong)], rng)
    rationales, rationale = _shuffled(_rationales(scene, index, rng), rng)
    question: Sentence = ["What", attribute, "is", [index], "?"]
    return ChoiceQuestion(question, answers, rationales, answer, rationale)


def _answer(index: int, value: str) -> Sentence:
    return [[index], "is", *(("a",) if value in SHAPES else ()), value, "."]


def _rationales(scene: Scene, index: int, rng: Random) -> list[Sentence]:
    """Give the true description of the thing, then false ones that differ in one or two attributes or in the place."""
    thing = scene.things[index]
    other = rng.choice([place for place in range(len(scene.things)) if place != index])
    side = "left" if index < other else "right"
    true = _rationale(thing, index, side, other)
    false: list[Sentence] = []
    while len(false) < CHOICES - 1:
        sentence = _rationale(_altered(thing, rng), index, rng.choice(("left", "right")), other)
        if sentence != true and sentence not in false:
            false.append(sentence)
    return [true, *false]


def _altered(thing: Thing, rng: Random) -> Thing:
    values = {name: getattr(thing, name) for name in _VALUES}
    for name in rng.sample(list(_VALUES), rng.choice((1, 2))):
        values[name] = rng.choice([value for value in _VALUES[name] if value != values[name]])
    return Thing(**values, x=thing.x, y=thing.y, radius=thing.radius, angle=thing.angle)


def _rationale(thing: Thing, index: int, side: str, other: int) -> Sentence:
    words = describe(thing, "size", "color", "texture", "shape").with_article.split()
    return [[index], "is", *words, "to", "the", side, "of", [other], "."]


def _shuffled(sentences: Sequence[Sentence], rng: Random) -> tuple[list[Sentence], int]:
    """Shuffle sentences of which the first is right; give them with the right one's new place."""
    order = rng.sample(range(len(sentences)), len(sentences))
    return [sentences[place] for place in order], order.index(0)

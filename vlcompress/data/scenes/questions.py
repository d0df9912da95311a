"""Questions about a scene, made so that the words alone say little about the answer.

Every yes/no template builds one question that is true of the scene and one that is false, and asks either with equal
chance, or none at all; open questions ask for attributes that are equally likely over all scenes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from vlcompress.data.scenes.phrases import Description, describe, descriptions, only
from vlcompress.data.scenes.world import COLORS, HEIGHT, MAX_THINGS, SHAPES, SIZES, TEXTURES, WIDTH, Scene, Thing

ANSWERS = ("yes", "no", *(str(n) for n in range(MAX_THINGS + 1)), *COLORS, *SHAPES, *SIZES, *TEXTURES)
"""Every answer that a question can have, in the order of the answer files."""

AnswerType = Literal["yes/no", "number", "other"]
MARGIN = 6.0
"""Least difference in pixels before one thing is called left of (above, ...) another."""
_CLEAR = 14.0
"""Difference from which nobody doubts it."""


@dataclass(frozen=True)
class SceneQuestion:
    """A question with its true answer.

    Attributes:
        text: the question.
        answer: one of ANSWERS.
        kind: the template's name, a key of KINDS.
        hard: whether the scene makes the answer doubtful (a small difference, many things, a small thing).
    """

    text: str
    answer: str
    kind: str
    hard: bool = False

    @property
    def answer_type(self) -> AnswerType:
        """VQA's class of the answer."""
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "number" if self.answer.isdigit() else "other"


def ask(scene: Scene, rng: Random, count: int) -> list[SceneQuestion]:
    """Ask `count` different questions about a scene (fewer only where the scene has no more to offer)."""
    asked: dict[str, SceneQuestion] = {}
    kinds, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    for _ in range(40 * count):
        if len(asked) == count:
            break
        template, _weight = KINDS[rng.choices(kinds, weights)[0]]
        question = template(scene, rng)
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())


def _either(kind: str, yes: str | None, no: str | None, rng: Random, hard: bool = False) -> SceneQuestion | None:
    """Ask the true or the false one with equal chance, but only where the scene offers both."""
    if yes is None or no is None:
        return None
    return SceneQuestion(yes, "yes", kind, hard) if rng.random() < 0.5 else SceneQuestion(no, "no", kind, hard)


PAIRS = (("color", "shape"), ("color", "shape"), ("color", "texture"), ("size", "color"), ("texture", "shape"))


def present(scene: Scene, names: tuple[str, str], rng: Random) -> Description:
    """Describe some thing by a pair of values that it has."""
    return describe(rng.choice(scene.things), *names)


def absent(scene: Scene, names: tuple[str, str], rng: Random) -> Description | None:
    """Describe a pair of values that the scene has, but never on one thing; None where every pair is there."""
    first, second = ([getattr(thing, name) for thing in scene.things] for name in names)
    mixed = [Description(**{names[0]: one, names[1]: other}) for one in first for other in second]
    missing = [description for description in mixed if not description.among(scene)]
    return rng.choice(missing) if missing else None


def shown_and_missing(scene: Scene, rng: Random, *wordings: str) -> tuple[str, str] | None:
    """Speak in one wording of values that a thing has together, and of some that none has; None where all are there."""
    names = rng.choice(PAIRS)
    missing = absent(scene, names, rng)
    if missing is None:
        return None
    words, shown = rng.choice(wordings), present(scene, names, rng)
    return words.format(shown.with_article), words.format(missing.with_article)


def _exist(scene: Scene, rng: Random) -> SceneQuestion | None:
    said = shown_and_missing(scene, rng, "Is there {}?", "Do you see {}?", "Is there {} in the picture?")
    return _either("exist", *said, rng) if said else None


def _exist_side(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Is a thing in a half of the picture: things near the middle line are not asked about."""
    side, other = rng.choice((("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top")))
    thing = rng.choice(scene.things)
    description = only(scene, thing, rng)
    distance = thing.x - WIDTH / 2 if side in ("left", "right") else thing.y - HEIGHT / 2
    if description is None or abs(distance) < MARGIN:
        return None
    true, false = (side, other) if (distance > 0) == (side in ("right", "bottom")) else (other, side)
    words = f"Is the {description.singular} in the {{}} half of the picture?"
    return _either("side", words.format(true), words.format(false), rng, abs(distance) < _CLEAR)


def _count(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Draw the number first, then what there is that many of: numbers are more even than things are."""
    missing = absent(scene, rng.choice(PAIRS), rng)
    counts: dict[int, list[Description]] = {0: [missing] if missing else []}
    for description in descriptions(scene, 2):
        counts.setdefault(len(description.among(scene)), []).append(description)
    number = rng.choice([number for number, options in counts.items() if options])
    words = rng.choice(("How many {} are there?", "How many {} do you see?", "What number of {} are in the picture?"))
    return SceneQuestion(words.format(rng.choice(counts[number]).plural), str(number), "count", number >= 4)


def _query(attribute: str, *wordings: str) -> Callable[[Scene, Random], SceneQuestion | None]:
    """Make the template that asks for an attribute of the one thing that a description fits."""

    def template(scene: Scene, rng: Random) -> SceneQuestion | None:
        thing = rng.choice(scene.things)
        description = only(scene, thing, rng, without=attribute)
        if description is None:
            return None
        words = rng.choice(wordings).format(description.singular)
        return SceneQuestion(words, getattr(thing, attribute), attribute, thing.size == "small" and rng.random() < 0.5)

    return template


def _query_extreme(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Ask for the colour or shape of the leftmost (rightmost, ...) thing, where the next one is not as far out."""
    word, score = rng.choice(_EXTREMES)
    first, second = sorted(scene.things, key=score, reverse=True)[:2]
    lead = score(first) - score(second)
    attribute = rng.choice(("color", "shape"))
    if lead < MARGIN:
        return None
    words = {"color": f"What color is the {word} thing?", "shape": f"What shape is the {word} thing?"}
    return SceneQuestion(words[attribute], getattr(first, attribute), "extreme", lead < _CLEAR)


def _query_neighbour(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Ask for the colour or shape of the only thing on one side of another."""
    anchor = rng.choice(scene.things)
    relation, score = rng.choice(RELATIONS)
    lead = {thing: score(thing) - score(anchor) for thing in scene.things if thing is not anchor}
    beyond = [thing for thing in lead if lead[thing] > 0]
    description = only(scene, anchor, rng)
    if description is None or len(beyond) != 1 or min(map(abs, lead.values())) < MARGIN:
        return None
    attribute = rng.choice(("color", "shape"))
    words = f"What {attribute} is the thing {relation} the {description.singular}?"
    return SceneQuestion(words, getattr(beyond[0], attribute), "neighbour", min(map(abs, lead.values())) < _CLEAR)


def related(scene: Scene, rng: Random, words: str) -> tuple[str, str, float] | None:
    """Say where one thing is from another, rightly and the other way round; None where it is not plain enough.

    Args:
        scene: has the things.
        rng: chooses them.
        words: with {one}, {relation} and {other}.

    Returns:
        The true and the false sentence, and by how many pixels the one is ahead.
    """
    first, second = rng.sample(scene.things, 2)
    one, other = only(scene, first, rng), only(scene, second, rng)
    relation, score = rng.choice(RELATIONS)
    lead = score(first) - score(second)
    if one is None or other is None or abs(lead) < MARGIN:
        return None
    ahead, behind = (one.singular, other.singular) if lead > 0 else (other.singular, one.singular)
    true = words.format(one=ahead, relation=relation, other=behind)
    return true, words.format(one=behind, relation=relation, other=ahead), abs(lead)


def _relation(scene: Scene, rng: Random) -> SceneQuestion | None:
    said = related(scene, rng, "Is the {one} {relation} the {other}?")
    return _either("relation", said[0], said[1], rng, said[2] < _CLEAR) if said else None


def _same(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Do two things share an attribute: a pair that does and a pair that does not must both exist."""
    attribute = rng.choice(("color", "shape", "size"))
    thing = rng.choice(scene.things)
    others = [other for other in scene.things if other is not thing]
    alike = [other for other in others if getattr(other, attribute) == getattr(thing, attribute)]
    unlike = [other for other in others if other not in alike]
    if not alike or not unlike:
        return None
    first = only(scene, thing, rng, without=attribute)
    seconds = [only(scene, rng.choice(group), rng, without=attribute) for group in (alike, unlike)]
    if first is None or seconds[0] is None or seconds[1] is None:
        return None
    yes, no = (
        f"Is the {first.singular} the same {attribute} as the {second.singular}?" for second in seconds if second
    )
    return _either("same", yes, no, rng)


def _compare_counts(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Are there more (fewer) of one than of the other, by one attribute each."""
    options = [d for d in descriptions(scene, 1) if d.color or d.shape]
    if len(options) < 2:
        return None
    one, other = rng.sample(options, 2)
    many, few = sorted((one, other), key=lambda d: -len(d.among(scene)))
    difference = len(many.among(scene)) - len(few.among(scene))
    if difference == 0:
        return None
    words, true, false = rng.choice((("more", many, few), ("fewer", few, many)))
    sentence = f"Are there {words} {{}} than {{}}?"
    yes, no = sentence.format(true.plural, false.plural), sentence.format(false.plural, true.plural)
    return _either("compare", yes, no, rng, difference == 1 and len(many.among(scene)) >= 3)


def _both(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Two things at once: "no" has one of them present, in either place."""
    names, other_names = rng.choice(PAIRS), rng.choice(PAIRS)
    one, other = present(scene, names, rng), present(scene, other_names, rng)
    missing = absent(scene, names, rng)
    if missing is None or one == other:
        return None
    right, wrong = [one, other], [missing, other]
    rng.shuffle(right)
    rng.shuffle(wrong)
    return _either("and", _join("and", right), _join("and", wrong), rng)


def _any(scene: Scene, rng: Random) -> SceneQuestion | None:
    """One thing or another: "yes" has one of them present, in either place; "no" has neither."""
    names, other_names = rng.choice(PAIRS), rng.choice(PAIRS)
    one, other = absent(scene, names, rng), absent(scene, other_names, rng)
    if one is None or other is None or one == other:
        return None
    right, wrong = [present(scene, names, rng), other], [one, other]
    rng.shuffle(right)
    rng.shuffle(wrong)
    return _either("or", _join("or", right), _join("or", wrong), rng)


def _join(word: str, parts: Sequence[Description]) -> str:
    return f"Is there {parts[0].with_article} {word} {parts[1].with_article}?"


def _not(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Is there a shape that is not of a colour: false where all of that shape have it."""
    uniform = [thing for thing in scene.things if _only_color(scene, thing.shape)]
    if not uniform:
        return None
    one, two = rng.choice(uniform), rng.choice(scene.things)
    other = rng.choice([color for color in COLORS if color != _only_color(scene, two.shape)])
    words = rng.choice(("Is there a {} that is not {}?", "Do you see a {} that is not {}?"))
    return _either("not", words.format(two.shape, other), words.format(one.shape, one.color), rng)


def _only_color(scene: Scene, shape: str) -> str:
    """Find the colour of all things of a shape, or "" where they differ."""
    colors = {thing.color for thing in Description(shape=shape).among(scene)}
    return colors.pop() if len(colors) == 1 else ""


def _x(thing: Thing) -> float:
    return thing.x


def _y(thing: Thing) -> float:
    return thing.y


def _minus_x(thing: Thing) -> float:
    return -thing.x


def _minus_y(thing: Thing) -> float:
    return -thing.y


Score = Callable[[Thing], float]
_EXTREMES: Sequence[tuple[str, Score]] = (
    ("leftmost", _minus_x),
    ("rightmost", _x),
    ("topmost", _minus_y),
    ("lowest", _y),
)
RELATIONS: Sequence[tuple[str, Score]] = (
    ("to the left of", _minus_x),
    ("to the right of", _x),
    ("above", _minus_y),
    ("below", _y),
)

KINDS: dict[str, tuple[Callable[[Scene, Random], SceneQuestion | None], float]] = {
    "exist": (_exist, 12),
    "side": (_exist_side, 5),
    "relation": (_relation, 8),
    "same": (_same, 8),
    "compare": (_compare_counts, 6),
    "and": (_both, 4),
    "or": (_any, 5),
    "not": (_not, 3),
    "count": (_count, 14),
    "color": (_query("color", "What color is the {}?", "What is the color of the {}?"), 14),
    "shape": (_query("shape", "What shape is the {}?", "What is the shape of the {}?"), 12),
    "texture": (_query("texture", "What texture is the {}?", "Is the {} plain, striped or dotted?"), 6),
    "size": (_query("size", "What size is the {}?", "Is the {} small or large?"), 4),
    "extreme": (_query_extreme, 8),
    "neighbour": (_query_neighbour, 15),
}
"""Every template with its share (templates that a scene offers nothing to are asked less often)."""

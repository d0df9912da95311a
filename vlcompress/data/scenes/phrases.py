"""How things are spoken of: descriptions that fit some things of a scene, and the words for them."""

from dataclasses import dataclass, fields
from itertools import combinations
from random import Random

from vlcompress.data.scenes.world import Scene, Thing

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six")
ATTRIBUTES = ("size", "color", "texture", "shape")


@dataclass(frozen=True)
class Description:
    """Attribute values that a thing must have; "" leaves an attribute open."""

    size: str = ""
    color: str = ""
    texture: str = ""
    shape: str = ""

    def fits(self, thing: Thing) -> bool:
        """Say whether the thing has every named value."""
        return all(getattr(self, name) in ("", getattr(thing, name)) for name in ATTRIBUTES)

    def among(self, scene: Scene) -> tuple[Thing, ...]:
        """Select the scene's things that fit."""
        return tuple(thing for thing in scene.things if self.fits(thing))

    @property
    def values(self) -> tuple[str, ...]:
        """The named values."""
        return tuple(getattr(self, field.name) for field in fields(self) if getattr(self, field.name))

    @property
    def singular(self) -> str:
        """For example "large red thing", "star"."""
        return " ".join((*self._adjectives, self.shape or "thing"))

    @property
    def with_article(self) -> str:
        """For example "a star", "an orange thing"."""
        return f"{'an' if self.singular[0] in 'aeiou' else 'a'} {self.singular}"

    @property
    def plural(self) -> str:
        """For example "large red things", "crosses"."""
        noun = self.shape or "thing"
        return " ".join((*self._adjectives, noun + ("es" if noun.endswith("ss") else "s")))

    @property
    def _adjectives(self) -> tuple[str, ...]:
        return tuple(word for word in (self.size, self.color, self.texture) if word)


def describe(thing: Thing, *names: str) -> Description:
    """Describe a thing by the named attributes."""
    return Description(**{name: getattr(thing, name) for name in names})


def descriptions(scene: Scene, most: int) -> list[Description]:
    """List every description by one to `most` attributes that fits a thing of the scene, each once."""
    found = {
        describe(thing, *names): None
        for thing in scene.things
        for count in range(1, most + 1)
        for names in combinations(ATTRIBUTES, count)
    }
    return list(found)


def counted(description: Description, scene: Scene, count: int | None = None) -> str:
    """Say how many things of the scene fit a description, or that it is another `count` of them."""
    number = len(description.among(scene)) if count is None else count
    if number == 1:
        return f"There is one {description.singular} in the picture."
    return f"There are {NUMBER_WORDS[number]} {description.plural} in the picture."


def only(scene: Scene, thing: Thing, rng: Random, *, without: str = "") -> Description | None:
    """Describe a thing so that nothing else fits, by at most three attributes and no more than needed.

    Args:
        scene: what the thing is part of.
        thing: what to describe.
        rng: chooses among the shortest descriptions.
        without: an attribute that must not be named (the one that is asked for).

    Returns:
        The description; None where none is short enough.
    """
    names = [name for name in ATTRIBUTES if name != without]
    for count in (1, 2, 3):
        fitting = [describe(thing, *chosen) for chosen in combinations(names, count)]
        unique = [description for description in fitting if len(description.among(scene)) == 1]
        if unique:
            return rng.choice(unique)
    return None

"""Sentences that are true of a scene: pre-training reads them beside the questions, retrieval searches with them."""

from random import Random

from vlcompress.data.scenes.phrases import counted, describe, descriptions, only
from vlcompress.data.scenes.world import Scene

_RELATIONS = ("to the left of", "to the right of", "above", "below")


def captions(scene: Scene, rng: Random) -> list[str]:
    """Say three sentences: two things in full, a number, and where two things are."""
    return [_list(scene, rng), _number(scene, rng), _place(scene, rng)]


def five_captions(scene: Scene, rng: Random) -> list[str]:
    """Give five different sentences that tell the scene from others: lists of things in full, a number and a place."""
    found: dict[str, None] = {}
    while len(found) < 5:
        found[rng.choice((_list, _list, _place, _number))(scene, rng)] = None
    return list(found)


def _list(scene: Scene, rng: Random) -> str:
    first, second = (describe(thing, "size", "color", "texture", "shape") for thing in rng.sample(scene.things, 2))
    return f"There is {first.with_article} and {second.with_article}."


def _number(scene: Scene, rng: Random) -> str:
    return counted(rng.choice(descriptions(scene, 2)), scene)


def _place(scene: Scene, rng: Random) -> str:
    first, second = rng.sample(scene.things, 2)
    across, down = second.x - first.x, second.y - first.y
    if abs(across) >= abs(down):
        relation = _RELATIONS[0] if across > 0 else _RELATIONS[1]
    else:
        relation = _RELATIONS[2] if down > 0 else _RELATIONS[3]
    names = [only(scene, thing, rng) or describe(thing, "color", "shape") for thing in (first, second)]
    return f"The {names[0].singular} is {relation} the {names[1].singular}."

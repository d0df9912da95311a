"""VCR's questions: four different choices, the right one true of the tagged thing and no other one."""

from random import Random

from vlcompress.data.scenes.choices import CHOICES, Sentence, choice, in_order
from vlcompress.data.scenes.world import sample_scene


def words(sentence: Sentence) -> list[str]:
    return [token for token in sentence if isinstance(token, str)]


def test_the_right_answer_is_the_tagged_thing_s_value_and_the_others_are_not() -> None:
    for number in range(200):
        rng = Random(number)
        scene = in_order(sample_scene(rng))
        asked = choice(scene, rng)
        (tag,) = [token for token in asked.question if isinstance(token, list)]
        value = getattr(scene.things[tag[0]], str(asked.question[1]))
        right = [place for place, answer in enumerate(asked.answers) if value in words(answer)]
        assert right == [asked.answer]
        assert len({str(answer) for answer in asked.answers}) == CHOICES


def test_only_the_right_rationale_fits_the_thing_and_its_place() -> None:
    for number in range(200):
        rng = Random(number)
        scene = in_order(sample_scene(rng))
        asked = choice(scene, rng)
        fitting = []
        for place, rationale in enumerate(asked.rationales):
            tags = [token[0] for token in rationale if isinstance(token, list)]
            thing, other = scene.things[tags[0]], scene.things[tags[1]]
            looks = {thing.size, thing.color, thing.texture, thing.shape} <= set(words(rationale))
            if looks and ("left" in words(rationale)) == (thing.x < other.x):
                fitting.append(place)
        assert fitting == [asked.rationale]


def test_the_right_choice_is_in_every_place() -> None:
    asked = [choice(in_order(sample_scene(Random(number))), Random(number)) for number in range(100)]
    assert {one.answer for one in asked} == {one.rationale for one in asked} == set(range(CHOICES))


def test_tags_count_from_left_to_right() -> None:
    things = in_order(sample_scene(Random(3))).things
    assert [thing.x for thing in things] == sorted(thing.x for thing in things)

"""Hypotheses and statements are what they are labelled as, in words that the vocabulary has."""

from random import Random

from vlcompress.data.scenes.phrases import descriptions
from vlcompress.data.scenes.statements import hypotheses, statement
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.scenes.world import Scene, sample_scene
from vlcompress.data.tokenizer import WordPiece


def scene(number: int) -> Scene:
    return sample_scene(Random(number))


def fits(scene: Scene, phrase: str) -> int:
    """Count the scene's things that a phrase such as "large red star(s)" fits, from the phrase's words alone."""
    words = [word for word in phrase.removesuffix(".").split() if word not in ("a", "an", "one")]
    noun = words.pop()
    singular = noun.removesuffix("es") if noun == "crosses" else noun.removesuffix("s") if noun != "cross" else noun
    wanted = words + ([] if singular == "thing" else [singular])
    return sum(
        all(word in (thing.size, thing.color, thing.texture, thing.shape) for word in wanted) for thing in scene.things
    )


def test_existence_is_judged_from_the_scene() -> None:
    checked = 0
    for number in range(300):
        here = scene(number)
        said = hypotheses(here, Random(number))
        if said.entailment.startswith("There is ") and said.entailment.endswith(" in the picture."):
            phrase = said.entailment.removeprefix("There is ").removesuffix(" in the picture.")
            if not phrase.startswith(("one ", "not ")):
                assert fits(here, phrase) > 0
                checked += 1
        if said.entailment.startswith("You do not see "):
            assert fits(here, said.entailment.removeprefix("You do not see ")) == 0
            assert fits(here, said.contradiction.removeprefix("You do not see ")) > 0
            checked += 1
    assert checked > 20


def test_a_true_and_a_false_hypothesis_have_the_same_form() -> None:
    said = [hypotheses(scene(number), Random(number)) for number in range(200)]
    assert all(one.entailment != one.contradiction for one in said)
    first = {one.entailment.split()[0] for one in said}
    assert first == {one.contradiction.split()[0] for one in said}


def test_a_statement_is_true_of_exactly_half_of_the_pairs() -> None:
    for number in range(50):
        rng = Random(number)
        pairs = [(sample_scene(rng), sample_scene(rng)) for _ in range(4)]
        said = statement(pairs, rng)
        assert said is not None
        assert sum(said.holds(pair) for pair in pairs) == 2


def test_more_is_judged_by_counting() -> None:
    for number in range(300):
        rng = Random(number)
        pairs = [(sample_scene(rng), sample_scene(rng)) for _ in range(4)]
        said = statement(pairs, rng)
        assert said is not None
        if said.text.startswith("There are more "):
            phrase, sides = said.text.removeprefix("There are more ").split(" in the ", 1)
            sign = 1 if sides.startswith("left") else -1
            for pair in pairs:
                difference = fits(pair[0], phrase) - fits(pair[1], phrase)
                assert said.holds(pair) == (sign * difference > 0)


def test_pairs_that_cannot_be_told_apart_give_no_statement() -> None:
    here = scene(1)
    assert statement([(here, here)] * 2, Random(0)) is None


def test_every_word_is_in_the_vocabulary() -> None:
    vocabulary = WordPiece(tokens())
    sentences = []
    for number in range(200):
        rng = Random(number)
        said = hypotheses(sample_scene(rng), rng)
        pairs = [(sample_scene(rng), sample_scene(rng)) for _ in range(4)]
        two = statement(pairs, rng)
        sentences += [said.entailment, said.contradiction, said.neutral, *([two.text] if two else [])]
    assert vocabulary.unknown_rate(sentences) == 0


def test_the_neutral_one_speaks_of_what_the_picture_does_not_show() -> None:
    outside = ("than you see", "of the picture", "below the picture", "do not see in the picture")
    for number in range(100):
        here = scene(number)
        neutral = hypotheses(here, Random(number)).neutral
        assert any(words in neutral for words in outside)
        assert descriptions(here, 2)

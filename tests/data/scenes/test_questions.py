"""Questions: their answers are true, their words give nothing away, and their vocabulary is whole."""

from collections import Counter
from random import Random

import pytest

from vlcompress.data.scenes.captions import captions
from vlcompress.data.scenes.phrases import Description, only
from vlcompress.data.scenes.questions import ANSWERS, KINDS, SceneQuestion, ask
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.scenes.world import Scene, Thing, sample_scene
from vlcompress.data.tokenizer import MAX_LENGTH, WordPiece


def thing(shape: str, color: str, x: float, y: float, size: str = "small", texture: str = "plain") -> Thing:
    return Thing(shape, color, size, texture, x, y, 9.0, 0.0)


SCENE = Scene(
    (
        thing("star", "red", 20, 20),
        thing("star", "blue", 60, 50, "large"),
        thing("ring", "red", 100, 80, "large", "dotted"),
    ),
    (120, 120, 120),
    0,
)
TRUTHS = {
    "Is there a red star?": "yes",
    "Is there a blue ring?": "no",
    "How many red things are there?": "2",
    "How many blue rings are there?": "0",
    "What color is the ring?": "red",
    "What shape is the dotted thing?": "ring",
    "What texture is the ring?": "dotted",
    "What size is the ring?": "large",
    "Is the ring in the left half of the picture?": "no",
    "Is the blue thing to the right of the ring?": "no",
    "Is the blue thing to the left of the ring?": "yes",
    "Is the ring above the blue thing?": "no",
    "Is the ring below the blue thing?": "yes",
    "What color is the leftmost thing?": "red",
    "What shape is the lowest thing?": "ring",
    "Are there more stars than rings?": "yes",
    "Are there fewer stars than rings?": "no",
    "Is there a ring that is not red?": "no",
    "Is there a star that is not red?": "yes",
    "What color is the thing to the right of the blue thing?": "red",
    "Is there a red star and a blue ring?": "no",
    "Is there a red star or a blue ring?": "yes",
    "Is the ring the same size as the blue thing?": "yes",
}


@pytest.fixture(scope="module")
def asked() -> list[SceneQuestion]:
    scenes = [(sample_scene(rng), rng) for rng in map(Random, range(600))]
    return [question for scene, rng in scenes for question in ask(scene, rng, 4)]


def test_answers_are_true_of_the_scene() -> None:
    found: dict[str, str] = {}
    for seed in range(150):
        for question in ask(SCENE, Random(seed), 12):
            assert found.setdefault(question.text, question.answer) == question.answer
    checked = TRUTHS.keys() & found.keys()
    assert {text: found[text] for text in checked} == {text: TRUTHS[text] for text in checked}
    assert len(checked) > 0.7 * len(TRUTHS)  # the rest is there, but rarely asked


def test_every_kind_is_asked_and_no_question_twice_of_a_scene(asked: list[SceneQuestion]) -> None:
    assert {question.kind for question in asked} == set(KINDS)
    texts = [question.text for question in ask(SCENE, Random(1), 8)]
    assert len(set(texts)) == len(texts) == 8


def test_yes_and_no_are_equally_likely_in_every_kind(asked: list[SceneQuestion]) -> None:
    counts = Counter((question.kind, question.answer) for question in asked if question.answer_type == "yes/no")
    for kind in {kind for kind, _ in counts}:
        yes, no = counts[kind, "yes"], counts[kind, "no"]
        assert abs(yes - no) < 4 * (yes + no) ** 0.5  # four standard deviations of a fair coin


def test_less_than_half_of_the_questions_are_yes_or_no(asked: list[SceneQuestion]) -> None:
    assert 0.35 < sum(question.answer_type == "yes/no" for question in asked) / len(asked) < 0.5
    assert {question.answer for question in asked} <= set(ANSWERS)


def test_the_vocabulary_has_every_word_and_sentences_fit(asked: list[SceneQuestion]) -> None:
    vocabulary = WordPiece(tokens())
    scenes = [sample_scene(Random(seed)) for seed in range(100)]
    sentences = [question.text for question in asked]
    sentences += [sentence for scene in scenes for sentence in captions(scene, Random(0))]
    assert vocabulary.unknown_rate(sentences) == 0
    assert vocabulary.encode(sentences, max_length=40).shape[1] <= MAX_LENGTH


def test_captions_are_true() -> None:
    for seed in range(40):
        listed, _, placed = captions(SCENE, Random(seed))
        assert sum(part in listed for part in ("red plain star", "blue plain star", "red dotted ring")) == 2
        if placed.startswith("The ring is"):
            assert "to the right of" in placed  # farther across than down from both stars


def test_only_gives_the_shortest_description_that_fits_nothing_else() -> None:
    red_star, _, ring = SCENE.things
    assert only(SCENE, ring, Random(0), without="texture") == Description(shape="ring")
    description = only(SCENE, red_star, Random(0))
    assert description == Description(size="small")
    twins = Scene((ring, ring), (0, 0, 0), 0)
    assert only(twins, ring, Random(0)) is None


def test_words_for_descriptions() -> None:
    assert Description(color="orange", shape="cross").with_article == "an orange cross"
    assert Description(size="large", shape="cross").plural == "large crosses"
    assert Description(color="red").singular == "red thing"

"""Ten annotators: agreement where the answer is plain, near misses where it is not."""

from random import Random

from vlcompress.data.scenes.annotators import _MISTAKEN_FOR, annotate, majority
from vlcompress.data.scenes.questions import ANSWERS, SceneQuestion


def agreement(hard: bool) -> float:
    answers = [annotate(SceneQuestion("?", "3", "count", hard), Random(seed)) for seed in range(200)]
    assert {answer for given in answers for answer, _ in given} <= {"2", "3", "4"}
    return sum(answer == "3" for given in answers for answer, _ in given) / 2000


def test_doubtful_questions_split_the_annotators() -> None:
    assert 0.96 < agreement(hard=False) < 1
    assert 0.75 < agreement(hard=True) < 0.9


def test_every_answer_can_be_mistaken_for_another_of_the_list() -> None:
    for answer in ANSWERS:
        if not answer.isdigit():
            assert set(_MISTAKEN_FOR[answer]) <= set(ANSWERS) - {answer}


def test_the_majority_is_the_commonest_and_the_first_among_equals() -> None:
    assert majority((("no", "yes"), ("yes", "yes"), ("yes", "maybe"))) == "yes"
    assert majority((("no", "yes"), ("yes", "yes"))) == "no"

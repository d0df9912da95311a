"""VQA's accuracy against the official evaluator."""

import json
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from statistics import fmean

import pytest

from vlcompress.data.answer_text import normalised, punctuation_normalised, words_normalised
from vlcompress.tasks.metrics.vqa import vqa_accuracy

OFFICIAL = Path(__file__).parents[2] / "fixtures" / "metrics" / "vqa_official"


def read(name: str):
    return json.loads((OFFICIAL / f"{name}.json").read_text())


def rounded(value: float) -> float:
    return float(Decimal(repr(value)).quantize(Decimal("0.01"), ROUND_HALF_UP))


@pytest.mark.evidence("metric", "vqa")
def test_accuracy_of_the_official_evaluator() -> None:
    expected = read("expected")
    answers = {row["question_id"]: row["answer"] for row in read("results")}
    notes = {row["question_id"]: row for row in read("annotations")["annotations"]}
    ours = {
        key: vqa_accuracy(answers[key], [vote["answer"] for vote in note["answers"]]) for key, note in notes.items()
    }
    assert {str(key): rounded(100 * value) for key, value in ours.items()} == expected["evalQA"]
    kinds = defaultdict(list)
    for key, note in notes.items():
        kinds[note["answer_type"]].append(ours[key])
    assert rounded(100 * fmean(ours.values())) == expected["accuracy"]["overall"]
    by_kind = {kind: rounded(100 * fmean(values)) for kind, values in kinds.items()}
    assert by_kind == expected["accuracy"]["perAnswerType"]


@pytest.mark.parametrize("case", read("normalizer_expected"), ids=lambda case: case["raw"])
def test_answers_are_normalised_as_officially(case: dict[str, str]) -> None:
    assert punctuation_normalised(case["raw"]) == case["processPunctuation"]
    assert words_normalised(case["processPunctuation"]) == case["processDigitArticle_of_that"]


def test_only_thirty_two_periods_go() -> None:
    assert normalised("." * 40) == "." * 8


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_annotators_that_agree(agreeing: int, accuracy: float) -> None:
    votes = ["yes"] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("yes", votes) == pytest.approx(accuracy)

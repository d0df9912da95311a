"""GQA's figures beside accuracy (Hudson and Manning, CVPR 2019; Stanford's ``eval.py``)."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from statistics import fmean

from vlcompress.data.examples import AnswerExample

OPEN = "query"
"""The structural type of questions that ask for more than yes, no, or one of two."""
_COMMON = ("color", "material", "shape")
"""Answers to "what do they have in common?", whatever the scene; such questions have no choices of their own."""


def gqa_figures(questions: Mapping[str, AnswerExample], said: Mapping[str, str]) -> dict[str, float]:
    """Compute the official figures that the data allow; all but consistency's implied questions are balanced ones.

    Args:
        questions: by id, with their `AnswerExample.gqa`.
        said: the answer to each.

    Returns:
        Shares in [0, 1]: "binary" and "open" accuracy; "validity" and "plausibility", how often an answer is of the
        question's kind and makes sense, where choices are published; "consistency", how many of the questions that a
        right answer implies are answered rightly, where all of them were asked. "distribution", chi-square of the
        answers over the groups of questions, in hundreds: lower is better and it may go beyond 1.
    """
    asked = {key: question for key, question in questions.items() if question.gqa and question.gqa.balanced}
    right = {key: said[key] in question.answers for key, question in questions.items()}
    kinds = {"binary": False, "open": True}
    figures = {
        name: [float(right[key]) for key, question in asked.items() if (question.kind == OPEN) == is_open]
        for name, is_open in kinds.items()
    }
    if all(question.gqa and question.gqa.valid for question in asked.values()):
        figures["validity"] = [float(_belongs(said[key], question, "valid")) for key, question in asked.items()]
        figures["plausibility"] = [float(_belongs(said[key], question, "plausible")) for key, question in asked.items()]
    implied = {key: [other for other in _implied(question) if other != key] for key, question in asked.items()}
    if all(other in right for others in implied.values() for other in others):
        figures["consistency"] = [
            fmean(right[other] for other in others) for key, others in implied.items() if others and right[key]
        ]
    shares = {name: fmean(values) for name, values in figures.items() if values}
    return shares | _distribution(asked, said)


def _belongs(answer: str, question: AnswerExample, choices: str) -> bool:
    assert question.gqa is not None
    return answer in (_COMMON if "Common" in question.gqa.detailed else getattr(question.gqa, choices))


def _implied(question: AnswerExample) -> tuple[str, ...]:
    return question.gqa.entailed if question.gqa else ()


def _distribution(asked: Mapping[str, AnswerExample], said: Mapping[str, str]) -> dict[str, float]:
    """Compare how often each answer is right and is given, group by group; a group weighs as its questions."""
    gold: defaultdict[str, Counter[str]] = defaultdict(Counter)
    given: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, question in asked.items():
        if question.gqa and question.gqa.group:
            gold[question.gqa.group].update(question.answers)
            given[question.gqa.group][said[key]] += 1
    if not gold:
        return {}
    chi_squares = {
        group: sum((given[group][answer] - count) ** 2 / count for answer, count in answers.items())
        for group, answers in gold.items()
    }
    weighted = sum(chi * gold[group].total() for group, chi in chi_squares.items())
    return {"distribution": weighted / sum(answers.total() for answers in gold.values()) / 100}

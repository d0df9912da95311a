"""Choices about people in an image: the model's own order, people by their own ids, mistakes with their messages."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.serve.cells import NAMES, WORDS, picture, softmax
from vlcompress.data.people import PEOPLE
from vlcompress.export.preprocessing import reading_files
from vlcompress.models.base import Head, Sample
from vlcompress.models.registry import family_named
from vlcompress.serve.schemas import ChoiceRequest
from vlcompress.serve.tasks import vcr
from vlcompress.tasks.preprocessing import max_words
from vlcompress.tasks.registry import TASKS

ASKED = {"question": "why is [0] left of [1] ?", "picture": NAMES[0], "objects": ["person", "circle"]}
CHOICES = ["[0] is red", "the [1] is blue", "no"]


def ids(text: str) -> list[int]:
    return WORDS.encode([text], 128)[0, 1:-1].tolist()


def joined(*parts: tuple[list[int], int]) -> Sample:
    """Write out what the official code reads of several parts."""
    tokens, types = [WORDS.cls_id, *parts[0][0]], [0] * (1 + len(parts[0][0]))
    for pieces, segment in parts[1:]:
        tokens += [WORDS.sep_id, *pieces]
        types += [segment] * (1 + len(pieces))
    ids_T, types_T = np.array([*tokens, WORDS.sep_id]), np.array([*types, types[-1]])
    return Sample(ids_T, types_T, (picture(NAMES[0]).regions,))


PERSON = [WORDS.vocab_size]
QUESTION = ids("why is") + PERSON + ids("left of circle ?")
TEXTS = [PERSON + ids("is red"), ids("the circle is blue"), ids("no")]


@pytest.mark.parametrize("answer", [None, "[0] is green"])
def test_choices_are_ranked_as_the_model_does(cell: Any, answer: str | None) -> None:
    one = cell("uniter", "vcr")
    given, segment = ([], 2) if answer is None else ([(PERSON + ids("is green"), 2)], 3)
    samples = [joined((QUESTION, 0), *given, (text, segment)) for text in TEXTS]
    expected = softmax(one.logits(*samples)[:, 1])
    found = one.post(**ASKED, choices=CHOICES, answer=answer)
    scores = {answer["label"]: answer["score"] for answer in found["answers"]}
    assert [scores[choice] for choice in CHOICES] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"question": "why [4]"}, "'[4]' names no object: 'objects' lists 2, counted from 0"),
        ({"question": f"why [{'9' * 1900}]"}, "names no object: 'objects' lists 2"),
        ({"choices": ["one"]}, "'choices' of request is ['one']: give a list of 2 to 16 texts to choose from"),
        ({"choices": ["one", ""]}, "give a list of 2 to 16 texts"),
        ({"choices": ["x"] * 17}, "give a list of 2 to 16 texts"),
        ({"objects": "person"}, "'objects' of request is person: give a list of the classes"),
        ({"picture": None}, "give exactly one of picture, image, features: there is none"),
    ],
)
def test_mistakes_are_told(cell: Any, changed: dict[str, Any], says: str) -> None:
    code, error = cell("uniter", "vcr").post(**{**ASKED, "choices": CHOICES, **changed})
    assert (code, says in error) == (400, True), error


def test_choices_that_no_batch_holds_are_refused(cell: Any) -> None:
    client = cell("uniter", "vcr").serve(max_batch=2)
    refused = client.post("/v1/vcr", json={**ASKED, "choices": CHOICES})
    assert refused.json()["error"] == "3 choices are more than the 2 rows of a batch"


def test_a_long_text_is_cut_where_training_cuts_it_and_the_folder_says_so() -> None:
    published = family_named("uniter").config("base", vocab_size=WORDS.vocab_size + PEOPLE, feature_dim=128)
    kinds = {"choice": Head("choice", ("wrong", "right")), "answers": Head("answers", ("no",))}
    told = {
        kind: json.loads(reading_files(family_named("uniter"), published, head, WORDS.text)["preprocessing.json"])
        for kind, head in kinds.items()
    }
    assert {kind: document["longest_text"] for kind, document in told.items()} == {"choice": 220, "answers": 512}
    most = max_words(family_named("uniter"), published, TASKS["vcr"].words)
    asked = ChoiceRequest(question="why is [0] red " * 60, choices=["no", "yes"], objects=["person"], picture="x")
    for longest in (220, 512):  # of a folder that says so, and of one from before it did
        reads = SimpleNamespace(longest_text=longest)
        model: Any = SimpleNamespace(vocabulary=WORDS, preprocessing=reads, limits=SimpleNamespace(axes={"text": 512}))
        question = (ids("why is") + PERSON + ids("red")) * 60
        trained, types = WORDS.joined([(question, 0), (ids("no"), 2)], most)
        found = vcr._text(model, asked, "no")
        assert (found.ids_T.tolist(), len(trained)) == (trained.tolist(), 220)
        assert found.types_T is not None
        assert found.types_T.tolist() == types.tolist()

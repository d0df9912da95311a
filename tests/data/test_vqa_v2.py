"""Raw VQA v2 files and the soft scores made from ten annotators."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vlcompress.data.questions import Answers
from vlcompress.data.vqa_v2 import (
    Annotated,
    annotations_document,
    answer_list,
    questions_document,
    read_vqa_v2,
    soft_score,
    to_lxmert,
)
from vlcompress.errors import VlcompressError

GIVEN = ("yes",) * 6 + ("no",) * 3 + ("maybe",)
QUESTION = Annotated(
    9,
    4,
    "Is it?",
    tuple((answer, "yes") for answer in GIVEN),
    majority="yes",
    answer_type="yes/no",
    question_type="is it",
)


def write(folder: Path, annotations: dict[str, object]) -> tuple[Path, Path]:
    paths = (folder / "questions.json", folder / "annotations.json")
    paths[0].write_text(json.dumps(questions_document([QUESTION])))
    paths[1].write_text(json.dumps(annotations))
    return paths


@pytest.mark.parametrize(("count", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_scores(count: int, score: float) -> None:
    assert soft_score(count) == score


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_vqa_v2(*write(tmp_path, annotations_document([QUESTION]))) == [QUESTION]


def test_conversion_keeps_known_answers_only() -> None:
    (question,) = to_lxmert([QUESTION], Answers(("no", "yes")), "COCO_val2014_{:012d}")
    assert question.img_id == "COCO_val2014_000000000004"
    assert question.label == {"yes": 1.0, "no": 0.9}


def test_the_answer_list_leaves_out_rare_answers() -> None:
    assert answer_list([QUESTION] * 9).labels == ("yes",)
    assert answer_list([QUESTION] * 8).labels == ()


def test_the_answer_list_holds_normalised_answers() -> None:
    """As ViLT's does; of two spellings of one answer each counts for it."""
    spelt = [replace(QUESTION, majority=majority) for majority in ("The dog.", "dog", "dog!") * 3]
    assert answer_list(spelt).labels == ("dog",)
    assert answer_list([replace(QUESTION, majority="None")] * 9).labels == ("0",)


def test_a_question_without_annotation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="no annotation of question 9"):
        read_vqa_v2(*write(tmp_path, {"annotations": []}))


def test_swapped_files_are_refused(tmp_path: Path) -> None:
    questions, annotations = write(tmp_path, annotations_document([QUESTION]))
    with pytest.raises(VlcompressError, match="has no 'annotations'"):
        read_vqa_v2(annotations, questions)

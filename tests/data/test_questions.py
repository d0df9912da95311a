"""LXMERT's question files and answer list: what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlcompress.data.examples import AnswerExample
from vlcompress.data.questions import (
    Answers,
    Question,
    check_some_answer_known,
    read_questions,
    unlisted,
)
from vlcompress.errors import VlcompressError

ROW = {"question_id": 7, "img_id": "a", "sent": "Is it red?", "label": {"yes": 1, "no": 0.3}}
ANSWERS = Answers(("no", "yes"))


def written(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_a_question_is_read_with_what_the_file_says(tmp_path: Path) -> None:
    row = {**ROW, "answer_type": "yes/no", "question_type": "is it"}
    unlabelled = {"question_id": "8", "img_id": "b", "sent": "What?"}
    questions = read_questions(written(tmp_path / "q.json", [row, unlabelled]))
    assert questions == [
        Question(7, "a", "Is it red?", {"yes": 1, "no": 0.3}, "yes/no", "is it"),
        Question("8", "b", "What?", {}),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROW, "label": {"yes": 1.5}}], "row 1: label"),
        ([{**ROW, "label": ["yes"]}], "row 1: label"),
        ([ROW, {"question_id": 8, "img_id": "a"}], "row 2: no 'sent'"),
        ([ROW, ROW], "question 7 twice"),
        ({"questions": []}, "not hold a JSON list"),
    ],
)
def test_a_bad_question_file_is_refused(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(VlcompressError, match=message):
        read_questions(written(tmp_path / "q.json", rows))


def test_cut_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('[{"question_id": 1,')
    with pytest.raises(VlcompressError, match="not valid JSON"):
        read_questions(tmp_path / "q.json")


def test_targets_hold_the_scores_of_known_answers() -> None:
    question = Question(1, "a", "?", {"yes": 0.9, "maybe": 1.0})
    assert ANSWERS.targets([question]).tolist() == [[0.0, pytest.approx(0.9)]]


def test_a_file_of_which_no_answer_is_known_is_refused() -> None:
    unknown = Question(1, "a", "?", {"maybe": 1.0})
    with pytest.raises(VlcompressError, match=r"not one of its answers \('maybe'"):
        check_some_answer_known(Path("q.json"), [unknown], ANSWERS)
    check_some_answer_known(Path("q.json"), [unknown, Question(2, "a", "?", {"yes": 1})], ANSWERS)
    check_some_answer_known(Path("test.json"), [Question(3, "a", "?", {})], ANSWERS)


def test_an_answer_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "trainval_label2ans.json", ["no", "yes", "no"])
    written(tmp_path / "trainval_ans2label.json", {"no": 2, "yes": 1})
    with pytest.raises(VlcompressError, match=r"label2ans.json': the answer list has 'no' as 0 and as 2: keep one"):
        Answers.read(tmp_path)


def test_questions_whose_answers_are_all_unknown_are_counted() -> None:
    """Those of a test split have none, and do not count; votes that were left away do."""
    given = [{"yes": 1.0, "maybe": 0.3}, {"maybe": 1.0}, {}]
    examples = [AnswerExample(row, "a", "?", answers) for row, answers in enumerate(given)]
    assert unlisted([*examples, AnswerExample(3, "a", "?", {}, votes=("maybe",))], ("yes", "no")) == 2


def test_answer_files_must_agree(tmp_path: Path) -> None:
    written(tmp_path / "trainval_label2ans.json", ["no", "yes"])
    written(tmp_path / "trainval_ans2label.json", {"no": 0, "yes": 1})
    assert Answers.read(tmp_path) == ANSWERS
    written(tmp_path / "trainval_ans2label.json", {"no": 1, "yes": 0})
    with pytest.raises(VlcompressError, match="does not say the same"):
        Answers.read(tmp_path)

"""GQA: the official loader, evaluator and dump."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tasks.conftest import MemoryPictures, ShowingFamily, make_data, make_reader
from vlcompress.data.detect_layout import open_task
from vlcompress.data.examples import AnswerExample, GqaFacts
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.tasks.base import LogitTask
from vlcompress.tasks.build_task import build_train_task
from vlcompress.tasks.gqa import GqaTask
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.registry import task_of

FIXTURES = Path(__file__).parents[1] / "fixtures"
DATA = FIXTURES / "data" / "lxmert"
METRIC = FIXTURES / "metrics" / "gqa_official"


def official(split: str) -> GqaTask:
    data = open_task(DATA / "data", "gqa", (split,), allow_missing=True)
    words = WordPiece.load(FIXTURES / "vocab" / "bert-tiny-uncased")
    return GqaTask(data, Preprocessor(LxmertFamily(), words, data.pictures, 20))


@pytest.mark.parametrize("split", ["train", "testdev"])
def test_batches_of_the_official_loader(split: str) -> None:
    expected = load_file(DATA / "expected_batches" / f"gqa_{split}.safetensors")
    batch = official(split).batch(range(3), torch.Generator())
    width = batch.inputs["input_ids"].shape[1]
    assert torch.equal(batch.inputs["input_ids"], expected["input_ids"][:, :width])
    assert torch.equal(batch.inputs["visual_feats"], expected["feats"])
    assert torch.equal(batch.targets["answers"], expected["target"])


def test_the_best_answer_alone_can_be_learnt_as_officially() -> None:
    """``--mceLoss``: cross entropy with ``target.max(1)``, times the number of answers."""
    data = open_task(DATA / "data", "gqa", ("train",), allow_missing=True)
    family, words = LxmertFamily(), WordPiece.load(FIXTURES / "vocab" / "bert-tiny-uncased")
    task = build_train_task(task_of("lxmert", "gqa"), data, family, {}, words, "best-answer")
    expected = load_file(DATA / "expected_batches" / "gqa_train.safetensors")["target"]
    logits = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    official = nn.CrossEntropyLoss(ignore_index=-1)(logits, expected.max(1)[1]) * logits.size(1)
    assert isinstance(task, LogitTask)
    assert torch.equal(task.loss_of(logits, {"answers": expected}), official)
    pairs = open_task(DATA / "data", "nlvr2", ("valid",))
    with pytest.raises(VlcompressError, match=r"training.loss 'best-answer': nlvr2 has no list of answers"):
        build_train_task(task_of("lxmert", "nlvr2"), pairs, family, {}, words, "best-answer")


def test_results_of_the_official_evaluator_and_its_dump() -> None:
    expected = json.loads((DATA / "expected_batches" / "evaluators.json").read_text())["gqa"]
    task = official("testdev")
    said = torch.tensor([task.head.labels.index(answer) for answer in expected["predictions"].values()])
    logits = torch.nn.functional.one_hot(said, len(task.head.labels)).float()
    assert task.measure(lambda inputs: logits, batch=3).mean == pytest.approx(expected["score"])
    dump = (DATA / "expected_batches" / "gqa_dump_result.json").read_bytes()
    assert task.submission(lambda inputs: logits, batch=3) == dump


def test_questions_outside_the_balanced_set_are_answered_and_not_scored() -> None:
    facts = [GqaFacts(entailed=("b",)), GqaFacts(balanced=False), GqaFacts()]
    examples = [
        AnswerExample(key, "a", "the red cube", {"yes": 1.0}, "query", gqa=one)
        for key, one in zip("abc", facts, strict=True)
    ]
    pictures = MemoryPictures({"a": [[0, 0, 9, 9]]}, {})
    task = GqaTask(make_data("gqa", examples, pictures, ["yes", "no"]), make_reader(ShowingFamily(), pictures))
    said = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    scores = task.measure(lambda inputs: said, batch=3)
    assert (scores.scores.tolist(), scores.predictions.tolist()) == ([1, 0], [0, 1])
    assert scores.figures == {"open": 0.5, "consistency": 0}
    assert [row["prediction"] for row in json.loads(task.submission(lambda inputs: said, batch=3))] == [
        "yes",
        "no",
        "no",
    ]
    assert task.constant() == 1


@pytest.mark.evidence("metric", "gqa")
def test_accuracy_of_the_official_script() -> None:
    """Stanford's eval.py: an exact match over the balanced questions."""
    questions = json.loads((METRIC / "questions.json").read_text())
    said = {row["questionId"]: row["prediction"] for row in json.loads((METRIC / "predictions.json").read_text())}
    expected = json.loads((METRIC / "expected.json").read_text())["consistency=False,choices=False"]["accuracy"]
    balanced = {key: row for key, row in questions.items() if row["isBalanced"]}
    labels = sorted({row["answer"] for row in questions.values()} | set(said.values()))
    examples = [AnswerExample(key, "a", "the red cube", {row["answer"]: 1.0}) for key, row in balanced.items()]
    pictures = MemoryPictures({"a": [[0, 0, 9, 9]]}, {})
    task = GqaTask(make_data("gqa", examples, pictures, labels), make_reader(ShowingFamily(), pictures))
    chosen = torch.tensor([labels.index(said[key]) for key in balanced])
    logits = torch.nn.functional.one_hot(chosen, len(labels)).float()
    assert 100 * task.measure(lambda inputs: logits, batch=1000).mean == pytest.approx(expected, abs=1e-6)

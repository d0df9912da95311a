"""NLVR2: two images a statement, accuracy and consistency, and the official loader, evaluator and dump."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tasks.conftest import MemoryPictures, ShowingFamily, make_data, make_reader
from vlcompress.data.detect_layout import open_task
from vlcompress.data.examples import PairExample
from vlcompress.data.tokenizer import WordPiece
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.tasks.nlvr2 import Nlvr2Task
from vlcompress.tasks.preprocessing import Preprocessor

FIXTURES = Path(__file__).parents[1] / "fixtures"
DATA = FIXTURES / "data" / "lxmert"
PICTURES = MemoryPictures({"a": [[0, 0, 9, 9]], "b": [[1, 1, 9, 9]]}, {})
EXAMPLES = [
    PairExample("dev-0-0-0", ("a", "b"), "the left cube is red", 1, "dev-0-0"),
    PairExample("dev-0-1-0", ("b", "a"), "the left cube is red", 0, "dev-0-0"),
    PairExample("dev-1-0-0", ("a", "a"), "a ball", 1, "dev-1-0"),
]


def test_accuracy_and_consistency(model: nn.Module) -> None:
    shown = ShowingFamily(score=lambda sample: [0.0, 1.0])
    task = Nlvr2Task(make_data("nlvr2", EXAMPLES, PICTURES), make_reader(shown, PICTURES))
    found = task.evaluate(model, batch=2)
    assert found.scores.tolist() == [1, 0, 1]
    assert found.figures == {"consistency": 0.5}
    assert [image.img_id for image in shown.batches[0][1].images] == ["b", "a"]
    loss = task.loss(model, task.batch([0, 1, 2], torch.Generator()))
    log = torch.tensor([0.0, 1.0]).log_softmax(0)
    assert loss.item() == pytest.approx(-(2 * log[1] + log[0]).item() / 3)


def official() -> Nlvr2Task:
    data = open_task(DATA / "data", "nlvr2", ("valid",), allow_missing=True)
    words = WordPiece.load(FIXTURES / "vocab" / "bert-tiny-uncased")
    return Nlvr2Task(data, Preprocessor(LxmertFamily(), words, data.pictures, 20))


def test_batches_of_the_official_loader() -> None:
    expected = load_file(DATA / "expected_batches" / "nlvr2_valid.safetensors")
    batch = official().batch(range(3), torch.Generator())
    width = batch.inputs["input_ids"].shape[1]
    assert torch.equal(batch.inputs["input_ids"], expected["input_ids"].repeat_interleave(2, dim=0)[:, :width])
    assert torch.equal(batch.inputs["visual_feats"], expected["feats"].flatten(0, 1))
    torch.testing.assert_close(batch.inputs["visual_pos"], expected["boxes"].flatten(0, 1), rtol=0, atol=1e-7)
    assert torch.equal(batch.targets["true"], expected["label"])


def test_results_of_the_official_evaluator_and_its_dump() -> None:
    expected = json.loads((DATA / "expected_batches" / "evaluators.json").read_text())["nlvr2"]
    task = official()
    logits = torch.nn.functional.one_hot(torch.tensor(list(expected["predictions"].values())), 2).float()
    assert task.measure(lambda inputs: logits, batch=3).mean == pytest.approx(expected["score"])
    dump = (DATA / "expected_batches" / "nlvr2_dump_result.csv").read_bytes()
    assert task.submission(lambda inputs: logits, batch=3) == dump

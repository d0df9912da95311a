"""SNLI-VE: UNITER's score and loss."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tasks.conftest import MemoryPictures, ShowingFamily, make_data, make_reader
from vlcompress.data.examples import HIDDEN, EntailmentExample
from vlcompress.tasks.snli_ve import SnliVeTask

OFFICIAL = Path(__file__).parents[1] / "fixtures" / "metrics" / "vcr_ve_vqa"
PICTURES = MemoryPictures({"a": [[0, 0, 9, 9]]}, {})


def task(labels: list[int], family: ShowingFamily | None = None) -> SnliVeTask:
    examples = [EntailmentExample(f"p{row}", "a", "the red cube", label) for row, label in enumerate(labels)]
    return SnliVeTask(make_data("snli_ve", examples, PICTURES), make_reader(family or ShowingFamily(), PICTURES))


@pytest.mark.evidence("metric", "snli_ve")
def test_score_and_loss_of_the_official_code(model: nn.Module) -> None:
    expected = json.loads((OFFICIAL / "expected.json").read_text())["ve"]
    case = load_file(OFFICIAL / "ve_vqa.safetensors")
    labels = case["ve_targets"].argmax(dim=1).tolist()
    logits = iter(case["ve_logits"])
    ours = task(labels, ShowingFamily(score=lambda sample: next(logits)))
    batch = ours.batch(range(len(labels)), torch.Generator())
    assert torch.equal(batch.targets["answers"], case["ve_targets"])
    assert ours.loss(model, batch).item() == pytest.approx(expected["val_loss"], rel=1e-6)
    assert ours.measure(lambda inputs: case["ve_logits"], batch=100).mean == pytest.approx(expected["acc"])


def test_submission_names_the_labels() -> None:
    logits = torch.eye(3)
    rows = json.loads(task([0, 0, 0]).submission(lambda inputs: logits, batch=3))
    assert [row["prediction"] for row in rows] == ["contradiction", "entailment", "neutral"]
    assert rows[2]["pairID"] == "p2"


def test_hidden_labels_are_known_to_be() -> None:
    assert task([HIDDEN, HIDDEN]).hidden
    assert not task([0, 2]).hidden

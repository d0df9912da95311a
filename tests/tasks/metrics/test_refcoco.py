"""RefCOCO's IoU against UNITER's evaluator."""

import json
from pathlib import Path

import pytest
import torch

from vlcompress.tasks.metrics.refcoco import HIT, iou

OFFICIAL = Path(__file__).parents[2] / "fixtures" / "metrics" / "refcoco_iou"


def boxes(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_iou_of_the_official_code() -> None:
    pairs = json.loads((OFFICIAL / "iou.json").read_text())["pairs"]
    ours = iou(boxes([pair["box1"] for pair in pairs]), boxes([pair["box2"] for pair in pairs]))
    assert ours.tolist() == pytest.approx([pair["iou"] for pair in pairs], abs=1e-12)
    assert (ours > HIT).tolist() == [pair["hit"] for pair in pairs]


@pytest.mark.evidence("metric", "refcoco")
def test_accuracy_of_the_official_loop() -> None:
    case = json.loads((OFFICIAL / "argmax_accuracy.json").read_text())
    hits = []
    for example in case["examples"]:
        best = int(torch.tensor(example["scores"]).argmax())
        assert best == example["pred_index"]
        hits.append(bool(iou(boxes(example["obj_boxes"][best]), boxes(example["tgt_box"])) > HIT))
    assert hits == [example["hit"] for example in case["examples"]]


def test_boxes_that_share_one_row_of_pixels_have_no_intersection() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    assert iou(boxes, torch.tensor([[9.0, 0, 10, 10]])).item() == 0  # as the official comparison is strict
    assert iou(boxes, torch.tensor([[8.0, 0, 10, 10]])).item() == pytest.approx(20 / 180)

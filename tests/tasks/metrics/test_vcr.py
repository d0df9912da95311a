"""VCR's accuracies against UNITER's and r2c's evaluators."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlcompress.tasks.metrics.vcr import vcr_correct

OFFICIAL = Path(__file__).parents[2] / "fixtures" / "metrics" / "vcr_ve_vqa"


@pytest.mark.evidence("metric", "vcr")
def test_accuracies_of_both_official_evaluators() -> None:
    expected = json.loads((OFFICIAL / "expected.json").read_text())["vcr"]
    case = load_file(OFFICIAL / "vcr.safetensors")
    answers, rationales = case["qa_targets"][:, 0], case["qar_targets"][:, 0]
    whole = vcr_correct(case["scores20"], answers, rationales)
    given = torch.cat([case["scores20"][:, :4], case["qar_scores_given_gold"]], dim=1)
    short = vcr_correct(given, answers, rationales)
    for correct in (whole, short):
        found = {"qa": correct.answer, "qar": correct.rationale, "joint": correct.both}
        means = {name: values.double().mean().item() for name, values in found.items()}
        assert means == expected["UNITER_compute_accuracies"]
        assert list(means.values()) == list(expected["r2c_eval_q2ar"].values())

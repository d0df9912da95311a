"""Recalls from blocks against UNITER's and ViLT's evaluators on the whole matrix."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlcompress.tasks.metrics.retrieval import Ranks

METRICS = Path(__file__).parents[2] / "fixtures" / "metrics"
CASE = json.loads((METRICS / "itm_eval" / "retrieval.json").read_text())
IMAGE_OF = [CASE["img_ids"].index(CASE["txt2img"][text]) for text in CASE["txt_ids"]]


def ranks(scores_TI: torch.Tensor, image_of: list[int], block: tuple[int, int] = (7, 5)) -> Ranks:
    texts, images = scores_TI.shape
    result = Ranks(image_of, images)
    for start in range(0, texts, block[0]):
        chosen = slice(start, min(start + block[0], texts))
        result.right(chosen, scores_TI[range(chosen.start, chosen.stop), image_of[chosen]])
    for start in range(0, texts, block[0]):
        for first in range(0, images, block[1]):
            chosen = slice(start, min(start + block[0], texts)), slice(first, min(first + block[1], images))
            result.block(*chosen, scores_TI[chosen])
    return result


@pytest.mark.evidence("metric", "retrieval")
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_recalls_of_the_official_evaluators(kind: str) -> None:
    scores = load_file(METRICS / "itm_eval" / f"scores_{kind}.safetensors")["score_matrix"].float()
    ours = ranks(scores, IMAGE_OF).recalls()
    uniter = CASE["expected"][kind]
    vilt = json.loads((METRICS / "vilt_recall" / "expected.json").read_text())["expected"][kind]
    for k in (1, 5, 10):
        assert ours[f"image R@{k}"] == uniter["image_retrieval_without_row_index_slip"][f"img_r{k}"]
        assert ours[f"text R@{k}"] == uniter["official_itm_eval"][f"txt_r{k}"]
        assert ours[f"image R@{k}"] == pytest.approx(vilt[f"ir_r{k}"], abs=1e-7)
        assert ours[f"text R@{k}"] == pytest.approx(vilt[f"tr_r{k}"], abs=1e-7)


def test_ranks_do_not_depend_on_the_blocks() -> None:
    scores = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    image_of = [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    one, many = ranks(scores, image_of, (11, 4)), ranks(scores, image_of, (3, 1))
    assert torch.equal(one.image_rank_T, many.image_rank_T)
    assert torch.equal(one.text_rank_I, many.text_rank_I)
    by_hand = [
        sum(scores[text, image] >= scores[text, own] for image in range(4) if image != own)
        for text, own in enumerate(image_of)
    ]
    assert one.image_rank_T.tolist() == by_hand


def test_a_model_that_scores_all_alike_finds_nothing() -> None:
    assert set(ranks(torch.zeros(6, 3), [0, 0, 1, 1, 2, 2]).recalls().values()) == {0.0, 1.0}
    assert ranks(torch.zeros(24, 12), [row // 2 for row in range(24)]).recalls()["text R@10"] == 0.0

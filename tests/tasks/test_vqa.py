"""VQA's batches, loss and score, on the folder that the official code's loaders read (tests/fixtures)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vlcompress.data.detect_layout import open_task
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.vqa import VqaTask

FIXTURES = Path(__file__).parents[1] / "fixtures"
DATA = FIXTURES / "data" / "lxmert"
RNG = torch.Generator()


class FixedScores(LxmertFamily):
    """A family whose model answers with what it is given."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.given = logits

    def logits(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.given[: len(inputs["input_ids"])]


def task(split: str = "train", family: LxmertFamily | None = None, vocabulary: Path | None = None) -> VqaTask:
    data = open_task(DATA / "data", "vqa", (split,), allow_missing=True)
    words = WordPiece.load(vocabulary or FIXTURES / "vocab" / "bert-tiny-uncased")
    return VqaTask(data, Preprocessor(family or LxmertFamily(), words, data.pictures, 20))


@pytest.mark.parametrize("split", ["train", "minival", "nominival"])
def test_batches_of_the_official_loader(split: str) -> None:
    """Same order, words, regions and soft targets; ours stop padding at the batch's longest question."""
    official = load_file(DATA / "expected_batches" / f"vqa_{split}.safetensors")
    ours = task(split)
    batch = ours.batch(range(len(official["feats"])), RNG)
    width = batch.inputs["input_ids"].shape[1]
    assert torch.equal(batch.inputs["input_ids"], official["input_ids"][:, :width])
    assert not official["input_ids"][:, width:].any()
    assert torch.equal(batch.inputs["attention_mask"], official["input_mask"][:, :width])
    assert torch.equal(batch.inputs["visual_feats"], official["feats"])
    torch.testing.assert_close(batch.inputs["visual_pos"], official["boxes"], rtol=0, atol=1e-7)
    assert torch.equal(batch.targets["answers"], official["target"])


def test_score_is_the_soft_score_of_the_best_answer() -> None:
    targets = task().batch(range(3), RNG).targets["answers"]
    wanted = targets.argmax(dim=1)
    scores = task().measure(lambda inputs: torch.nn.functional.one_hot(wanted, targets.shape[1]).float(), batch=3)
    assert torch.equal(scores.predictions, wanted)
    assert torch.equal(scores.scores, targets.max(dim=1).values)
    assert task().measure(lambda inputs: 1 - targets, batch=3).mean < scores.mean


def test_results_of_the_official_evaluator_and_its_dump() -> None:
    """LXMERT's VQAEvaluator: the score of the best answer; and its dump_result, to the byte."""
    official = json.loads((DATA / "expected_batches" / "evaluators.json").read_text())["vqa"]
    ours = task("minival")
    said = torch.tensor([ours.head.labels.index(answer) for answer in official["predictions"].values()])
    logits = torch.nn.functional.one_hot(said, len(ours.head.labels)).float()
    assert ours.measure(lambda inputs: logits, batch=3).mean == pytest.approx(official["score"], abs=1e-7)
    dump = (DATA / "expected_batches" / "vqa_dump_result.json").read_bytes()
    assert ours.submission(lambda inputs: logits, batch=3) == dump


def test_loss_is_binary_cross_entropy_times_the_number_of_answers() -> None:
    logits = torch.randn(3, len(task().head.labels), generator=torch.Generator().manual_seed(0))
    ours = task("train", FixedScores(logits))
    batch = ours.batch(range(3), RNG)
    y, p = batch.targets["answers"], logits.sigmoid()
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).sum(dim=1).mean()
    assert ours.loss(nn.Identity(), batch).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_vocabulary_of_another_language_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ñandú"]) + "\n")
    with pytest.raises(VlcompressError, match="does not know 100%"):
        task(vocabulary=tmp_path)

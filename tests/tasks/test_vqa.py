"""VQA's batches, loss and score, on the folder that the official code's loaders read (tests/fixtures)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vlcompress.data.tokenizer import WordPiece
from vlcompress.data.vqa_folder import open_vqa
from vlcompress.errors import VlcompressError
from vlcompress.models.lxmert import LxmertFamily
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


def task(split: str = "train", family: object = None) -> VqaTask:
    folder = open_vqa(DATA / "data", (split,), strict=False, allow_missing=True)
    vocabulary = WordPiece.load(FIXTURES / "vocab" / "bert-tiny-uncased")
    return VqaTask(folder, vocabulary, family or LxmertFamily())


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
    ours = task("train")
    targets = ours.batch(range(3), RNG).targets["answers"]
    wanted = targets.argmax(dim=1)
    logits = torch.nn.functional.one_hot(wanted, targets.shape[1]).float()
    right = task("train", FixedScores(logits))
    scores, predictions = right.scores(nn.Identity(), right.batch(range(3), RNG))
    assert torch.equal(predictions, wanted)
    assert torch.equal(scores, targets.max(dim=1).values)
    wrong = task("train", FixedScores(1 - targets))
    assert wrong.scores(nn.Identity(), wrong.batch(range(3), RNG))[0].sum() < targets.max(dim=1).values.sum()


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
        VqaTask(
            open_vqa(DATA / "data", ("train",), strict=False, allow_missing=True),
            WordPiece.load(tmp_path),
            LxmertFamily(),
        )

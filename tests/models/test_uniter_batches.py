"""UNITER's batches from its published databases: what the official collate makes of the same rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlcompress.data.detect_layout import open_task
from vlcompress.data.tokenizer import WordPiece
from vlcompress.models.base import Sample
from vlcompress.models.uniter.adapter import UniterFamily

FIXTURES = Path(__file__).parents[1] / "fixtures"
UNITER = FIXTURES / "data" / "uniter"
CASED = WordPiece.load(FIXTURES / "vocab" / "bert-tiny-cased")


@pytest.mark.parametrize(
    ("task", "split", "name"), [("vqa", "devval", "vqa_train_collate"), ("nlvr2", "dev", "nlvr2_paired_dev")]
)
def test_collate_gives_the_official_tensors(task: str, split: str, name: str) -> None:
    official = load_file(UNITER / "expected_batches" / f"{name}.safetensors")
    data = open_task(UNITER, task, [split])
    samples = []
    for ids, example in zip(data.encoded, data.examples, strict=True):
        names = example.images if task == "nlvr2" else (example.image,)
        words = np.array([CASED.cls_id, *ids, CASED.sep_id], dtype=np.int64)
        samples.append(Sample(words, np.zeros_like(words), tuple(data.pictures.regions(image) for image in names)))
    batch = UniterFamily().collate(samples)
    assert torch.equal(batch["input_ids"], official["input_ids"])
    assert torch.equal(batch["visual_feats"], official["img_feat"])
    assert torch.equal(batch["visual_pos"], official["img_pos_feat"])
    visible = batch["attention_mask"].sum(1) + batch["visual_attention_mask"].sum(1)
    assert torch.equal(visible, official["attn_masks"].sum(1))
    if task == "nlvr2":  # the official table pads the types with 0, which nothing sees
        seen = batch["visual_attention_mask"].bool()
        assert torch.equal(batch["visual_type_ids"][seen], official["img_type_ids"][seen])

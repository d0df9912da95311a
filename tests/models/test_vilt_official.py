"""ViLT against the official code: hidden states, scores, loss, gradients, and its checkpoints and masks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Head
from vlcompress.models.checkpoints import read_checkpoint
from vlcompress.models.vilt.adapter import ViltFamily, canonical
from vlcompress.models.vilt.model import encode
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Magnitude
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Unstructured

CASE = Path(__file__).parents[1] / "fixtures" / "vilt_models" / "vqa"
WEIGHTS, INPUTS, EXPECTED = (load_file(CASE / f"{part}.safetensors") for part in ("weights", "inputs", "expected"))
META: dict[str, Any] = json.loads((CASE / "meta.json").read_text())
FAMILY = ViltFamily()
ANSWERS = Head("answers", tuple(f"answer {row}" for row in range(19)))
FUSED = [name for name in WEIGHTS if "attn.qkv.weight" in name]
BLOCKS = [name for name in WEIGHTS if name.endswith("weight") and any(p in name for p in ("attn.", "mlp."))]


def _config() -> Config:
    official = META["config"]
    same = {name: official[name] for name in ("vocab_size", "hidden_size", "image_size", "patch_size")}
    return (
        FAMILY.config("tiny", vocab_size=183)
        | same
        | {
            "num_attention_heads": official["num_heads"],
            "num_hidden_layers": official["num_layers"],
            "intermediate_size": official["hidden_size"] * official["mlp_ratio"],
            "max_position_embeddings": official["max_text_len"],
        }
    )


def _saved(folder: Path, tensors: dict[str, Tensor], name: str = "vilt_vqa.ckpt", **more: Any) -> str:
    torch.save({"state_dict": tensors, **more}, folder / name)
    return str(folder / name)


@pytest.fixture
def model(tmp_path: Path) -> nn.Module:
    model = FAMILY.build(_config(), ANSWERS, seed=0).eval()
    report = FAMILY.load(model, _saved(tmp_path, WEIGHTS, epoch=3, global_step=7))
    assert report.head == "loaded"
    assert "nothing says the order of its answers" in report.notes[-1]
    return model


def _batch() -> dict[str, Tensor]:
    # Inside a picture no pixel's channels sum to exactly zero, so this is the mask that the official code derives.
    mask = (INPUTS["image"].sum(1) != 0).long()
    return {
        "input_ids": INPUTS["text_ids"],
        "attention_mask": INPUTS["text_masks"],
        "pixel_values": INPUTS["image"],
        "pixel_mask": mask,
    }


def test_an_answer_head_is_put_into_the_models_order(tmp_path: Path) -> None:
    turned = tuple(reversed(ANSWERS.labels))
    (tmp_path / "ans2label.json").write_text(json.dumps({label: row for row, label in enumerate(turned)}))
    model = FAMILY.build(_config(), ANSWERS, seed=0)
    report = FAMILY.load(model, _saved(tmp_path, WEIGHTS))
    assert report.notes == ()
    assert torch.equal(model.state_dict()["classifier.3.bias"], WEIGHTS["vqa_classifier.3.bias"].flip(0))
    other = FAMILY.build(_config(), Head("answers", tuple("abcdefghijklmnopqrs")), seed=0)
    with pytest.raises(VlcompressError, match="answers with other labels than this task's 19"):
        FAMILY.load(other, str(tmp_path / "vilt_vqa.ckpt"))


def test_hidden_states(model: nn.Module) -> None:
    with torch.no_grad():
        encoded = encode(model, _batch())
    seen = EXPECTED["image_masks"].bool()
    assert torch.equal(encoded.image_mask, seen[:, : encoded.image_mask.shape[1]])
    assert int(seen.sum()) == int(encoded.image_mask.sum())
    text = INPUTS["text_masks"].bool()
    close = {"atol": 1e-5, "rtol": 0.0}
    torch.testing.assert_close(encoded.text[text], EXPECTED["text_feats"][text], **close)
    torch.testing.assert_close(encoded.image[encoded.image_mask], EXPECTED["image_feats"][seen], **close)
    torch.testing.assert_close(encoded.pooled, EXPECTED["cls_feats"], **close)


@pytest.mark.evidence("parity", "vilt-vqa")
def test_scores_loss_and_gradients(model: nn.Module) -> None:
    logits = FAMILY.logits(model, _batch())
    torch.testing.assert_close(logits, EXPECTED["logits"], atol=1e-5, rtol=0)
    loss = binary_cross_entropy_with_logits(logits, EXPECTED["targets"]) * 19
    torch.testing.assert_close(loss, EXPECTED["train_loss"], atol=1e-5, rtol=1e-6)
    loss.backward()
    norms = META["grad_norms_dropout_off"]["train_loss"]
    parameters = dict(model.named_parameters())
    for name in WEIGHTS:
        if "position_ids" not in name:
            parts = [parameters[part].grad for part in canonical({name: WEIGHTS[name]})]
            norm = torch.cat([part.flatten() for part in parts if part is not None]).norm().item()
            assert norm == pytest.approx(norms[name], rel=1e-4), name


def test_masks_over_the_fused_projection_prune_the_same_weights(model: nn.Module) -> None:
    official = {name: WEIGHTS[name] for name in BLOCKS}
    how = {"pattern": Unstructured(), "criterion": Magnitude(), "allocation": Global()}
    masks = prune(official, Masks.keep_all(official), 0.6, **how)
    own = {name: dict(model.named_parameters())[name] for name in FAMILY.prunable(model, "bert-tickets").names}
    converted = Masks(canonical(masks))
    found = prune(own, Masks.keep_all(own), 0.6, **how)
    assert converted.keys() == found.keys()
    assert all(torch.equal(converted[name], found[name]) for name in found)
    converted.apply(model)
    assert not model.vilt.encoder.layer[0].attention.attention.key.weight[~found[FUSED_KEY]].any()


FUSED_KEY = "vilt.encoder.layer.0.attention.attention.key.weight"


def test_fused_rows_are_query_key_value() -> None:
    assert len(FUSED) == 2
    assert torch.equal(canonical(WEIGHTS)[FUSED_KEY], WEIGHTS[FUSED[0]][40:80])


def test_rows_that_are_no_three_parts_are_refused() -> None:
    with pytest.raises(VlcompressError, match="40 rows"):
        canonical({FUSED[0]: torch.zeros(40, 40)})


def _pretrained() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "mlm_score.bias": [183],
        "mlm_score.transform.dense.weight": [40, 40],
        "mlm_score.transform.dense.bias": [40],
        "mlm_score.transform.LayerNorm.weight": [40],
        "mlm_score.transform.LayerNorm.bias": [40],
        "itm_score.fc.weight": [2, 40],
        "itm_score.fc.bias": [2],
    }
    heads = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    backbone = {name: tensor for name, tensor in WEIGHTS.items() if "classifier" not in name}
    return backbone | heads | {"mlm_score.decoder.weight": WEIGHTS["text_embeddings.word_embeddings.weight"]}


def test_a_pretrained_file_loads_whole_into_the_pretraining_model(tmp_path: Path) -> None:
    model = FAMILY.build(_config(), Head("pretraining"), seed=0)
    report = FAMILY.load(model, _saved(tmp_path, _pretrained()))
    assert report.head == "loaded"
    assert report.notes == ()
    words = model.vilt.embeddings.text_embeddings.word_embeddings.weight
    assert model.mlm_score.decoder.weight is not words
    assert model.mlm_score.transform.LayerNorm.eps == 1e-12
    assert torch.equal(model.mlm_score.decoder.bias, _pretrained()["mlm_score.bias"])


def test_a_file_that_ties_the_word_head_gives_both(tmp_path: Path) -> None:
    tied = {name: tensor for name, tensor in _pretrained().items() if name != "mlm_score.decoder.weight"}
    model = FAMILY.build(_config(), Head("pretraining"), seed=0)
    report = FAMILY.load(model, _saved(tmp_path, tied))
    assert "mlm_score.decoder.weight starts from the word embeddings, to which the file ties it" in report.notes
    assert torch.equal(model.mlm_score.decoder.weight, WEIGHTS["text_embeddings.word_embeddings.weight"])


def test_the_ranking_head_starts_from_the_matched_row(tmp_path: Path) -> None:
    model = FAMILY.build(_config(), Head("match"), seed=0).eval()
    report = FAMILY.load(model, _saved(tmp_path, _pretrained()))
    assert report.head == "loaded"
    assert any("row 1 of itm_score.fc" in note for note in report.notes)
    matching = _pretrained()
    expected = EXPECTED["cls_feats"] @ matching["itm_score.fc.weight"][1] + matching["itm_score.fc.bias"][1]
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.logits(model, _batch()), expected, atol=1e-5, rtol=0)


def test_the_second_image_of_a_pair_starts_as_the_first(tmp_path: Path) -> None:
    model = FAMILY.build(_config(), Head("pair", ("false", "true")), seed=0).eval()
    report = FAMILY.load(model, _saved(tmp_path, _pretrained()))
    assert report.head == "fresh"
    table = model.vilt.embeddings.token_type_embeddings.weight
    assert table.shape == (3, 40)
    assert torch.equal(table[2], table[1])
    both = {name: value.repeat_interleave(2, 0) for name, value in _batch().items()}
    with torch.no_grad():
        scores = FAMILY.logits(model, both)
        twice = model.classifier(torch.cat([EXPECTED["cls_feats"]] * 2, dim=1))
    torch.testing.assert_close(scores, twice, atol=1e-5, rtol=0)


class ModelCheckpoint:
    """Stands for the class of Lightning's that its checkpoints name."""


def test_a_lightning_checkpoint_that_names_classes_is_read_without_them(tmp_path: Path) -> None:
    path = _saved(tmp_path, WEIGHTS, callbacks={ModelCheckpoint: {"best": 0.5}}, hyper_parameters={"config": {}})
    assert torch.equal(read_checkpoint(path)[FUSED[0]], WEIGHTS[FUSED[0]])

"""Published encoders as a family: what transformers computes, read from its folders, or refused in one line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from tests.models.encoder.architectures import ENCODERS, config_of, head_of
from vlcompress.data.tokenizer import SPECIAL_TOKENS, WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head, Sample
from vlcompress.models.encoder.adapter import CHECKPOINT, EncoderFamily
from vlcompress.models.registry import family_named

CLASSES = Head("classes", ("red", "blue"))
WORDS = WordPiece(SPECIAL_TOKENS + tuple(f"w{i}" for i in range(55)))


def saved(name: str, folder: Path, **changes: Any) -> Any:
    """Write a fresh model of transformers to a folder, and give it."""
    kind, own = ENCODERS[name][1]()
    for key, value in changes.items():
        setattr(own, key, value)
    torch.manual_seed(1)
    model = kind(own).eval()
    model.save_pretrained(folder)
    return model


def opened(folder: Path, task: str, head: Head) -> tuple[EncoderFamily, dict[str, Any], nn.Module]:
    """Read a folder as `vlcompress prune` does."""
    config = EncoderFamily().config_of(CHECKPOINT, str(folder), task, WORDS, 0)
    family = EncoderFamily(config)
    model = family.build(config, head, seed=0).eval()
    family.load(model, str(folder), fresh_head=True)
    return family, config, model


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_two_towers_give_the_scores_of_transformers(name: str, tmp_path: Path) -> None:
    official = saved(name, tmp_path)
    family, config, model = opened(tmp_path, "retrieval", Head("embeddings"))
    inputs = family.example_inputs(config, batch=3, text=7, regions=1, seed=0)
    with torch.inference_mode():
        expected = official(**inputs).logits_per_text - getattr(official, "logit_bias", 0.0)
        embedded = family.logits(model, inputs)
    torch.testing.assert_close(embedded[:, 0] @ embedded[:, 1].T, expected, atol=1e-5, rtol=1e-4)


def test_a_picture_that_several_rows_have_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("clip")
    family = EncoderFamily(config)
    model: Any = family.build(config, Head("embeddings"), seed=0).eval()
    inputs = family.example_inputs(config, batch=5, text=7, regions=1, seed=0)
    inputs["pixel_values"] = inputs["pixel_values"][[0, 0, 1, 0, 0]]
    expected = family.logits(model, inputs)  # where gradients are kept, every row is looked at
    looked = []
    tower = model.backbone.get_image_features
    monkeypatch.setattr(
        model.backbone,
        "get_image_features",
        lambda pixel_values: looked.append(len(pixel_values)) or tower(pixel_values),
    )
    with torch.inference_mode():
        torch.testing.assert_close(family.logits(model, inputs), expected, atol=1e-6, rtol=1e-5)
    assert looked == [3]


def test_blips_matching_head_is_taken_over(tmp_path: Path) -> None:
    official = saved("blip-itm", tmp_path)
    family, config, model = opened(tmp_path, "retrieval", Head("match"))
    inputs = family.example_inputs(config, batch=3, text=7, regions=1, seed=0)
    with torch.inference_mode():
        rows = official(**inputs).itm_score
        torch.testing.assert_close(family.logits(model, inputs), rows[:, 1] - rows[:, 0], atol=1e-5, rtol=1e-4)
    assert family.inherited == ("head.",)


@pytest.mark.parametrize(
    ("name", "kind"), [("bert", "BertForSequenceClassification"), ("vit", "ViTForImageClassification")]
)
def test_a_linear_head_is_that_of_transformers(name: str, kind: str, tmp_path: Path) -> None:
    """The ticket of a BERT or a ViT is what transformers' own classes compute."""
    own = ENCODERS[name][1]()[1]
    own.num_labels = 2
    torch.manual_seed(1)
    official = getattr(transformers, kind)(own).eval()
    official.save_pretrained(tmp_path)
    family, config, model = opened(tmp_path, "sentences" if name == "bert" else "classification", CLASSES)
    parts: Any = model
    parts.head.load_state_dict(official.classifier.state_dict())
    inputs = family.example_inputs(config, batch=3, text=7, regions=1, seed=0)
    with torch.inference_mode():
        torch.testing.assert_close(family.logits(model, inputs), official(**inputs).logits, atol=1e-5, rtol=1e-4)


def test_a_sentence_is_the_mean_of_its_words(tmp_path: Path) -> None:
    official = saved("bert", tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    family, config, model = opened(tmp_path, "sentences", CLASSES)
    inputs = family.example_inputs(config, batch=3, text=7, regions=1, seed=0)
    parts: Any = model
    with torch.inference_mode():
        states, visible = official(**inputs).last_hidden_state, inputs["attention_mask"][:, :, None]
        torch.testing.assert_close(parts.pooled(inputs), (states * visible).sum(1) / visible.sum(1))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_row_does_not_depend_on_what_else_is_in_the_batch(name: str) -> None:
    config = config_of(name)
    family = family_named("encoder", config)
    model = family.build(config, head_of(name, config), seed=0).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    if family.reads == "regions":
        pytest.skip("its samples are regions: `test_nothing_reads_a_unit_but_its_consumer` runs it")
    ids = [np.array([2, *range(4, 4 + count), 3]) for count in (3, 9)]
    samples = [Sample(ids[row], np.zeros_like(ids[row]), (pictures[row],)) for row in range(2)]
    with torch.inference_mode():
        alone, together = (family.logits(model, family.collate(given)) for given in (samples[:1], samples))
    torch.testing.assert_close(alone, together[:1], atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_backbone_whatever_the_head_and_moves_nothing() -> None:
    config = config_of("clip")
    family = EncoderFamily(config)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (family.build(config, head, seed=3).state_dict() for head in (CLASSES, Head("embeddings")))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_towers_are_told_apart() -> None:
    modality = EncoderFamily().modality_of
    assert modality("encoder.joint.text_model.encoder.layers.0.mlp.fc1.weight") == "language"
    assert modality("encoder.vision.layers.0.mlp.fc1.weight") == "vision"
    assert modality("encoder.joint.text_encoder.encoder.layer.0.crossattention.self.key.weight") == "cross"


def refusal(name: str, task: str, tmp_path: Path) -> str:
    saved(name, tmp_path)
    with pytest.raises(VlcompressError) as caught:
        opened(tmp_path, task, CLASSES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_shows_what_the_model_reads(tmp_path: Path) -> None:
    message = refusal("bert", "classification", tmp_path)
    assert "BertModel reads input_ids, and classification shows pixel_values" in message


def written(tmp_path: Path, **document: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model_type": "nonesuch"}, "is a 'nonesuch', which transformers .* does not have"),
        ({"model_type": "gpt2"}, "is a 'gpt2', which is no encoder"),
        ({"model_type": "t5"}, "is a 't5', which is no encoder"),
        ({"hidden_size": 8}, "names no model_type"),
    ],
)
def test_what_is_no_encoder_is_refused(document: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match=message):
        EncoderFamily().config_of(CHECKPOINT, str(written(tmp_path, **document)), "sentences", WORDS, 0)


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    saved("clip", tmp_path)
    other = WordPiece(("w0", *SPECIAL_TOKENS))
    with pytest.raises(VlcompressError, match=r"pools at token 3, this one ends texts with 4: give the folder its"):
        EncoderFamily().config_of(CHECKPOINT, str(tmp_path), "retrieval", other, 0)


def test_missing_tensors_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    victim = next(name for name in tensors if "fc1.weight" in name or "intermediate.dense.weight" in name)
    del tensors[victim]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(VlcompressError, match=r"missing: .*fc1\.weight"):
        opened(tmp_path, "classification", CLASSES)


def test_tied_layers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("clip")
    family = EncoderFamily(config)
    model = family.build(config, CLASSES, seed=0)
    towers: Any = model
    text, vision = (getattr(towers.backbone, one).encoder.layers[0].mlp for one in ("text_model", "vision_model"))
    vision.fc1.weight = text.fc1.weight
    with pytest.raises(VlcompressError, match=re.escape("mlp.fc1.weight' is tied to")):
        family.prunable(model, "bert-tickets")


def test_a_model_without_blocks_has_nothing_to_prune() -> None:
    config = config_of("vit")
    config = config | {"transformers": config["transformers"] | {"num_hidden_layers": 0}}
    model = EncoderFamily(config).build(config, CLASSES, seed=0)
    with pytest.raises(VlcompressError, match="ViTModel has no prunable layers"):
        EncoderFamily(config).prunable(model, "bert-tickets")


def test_pictures_of_any_size_and_windows_are_refused_before_training(tmp_path: Path) -> None:
    blocks = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 1}
    naflex = transformers.Siglip2Config(text_config={**blocks, "vocab_size": 60}, vision_config={**blocks})
    naflex.save_pretrained(tmp_path)
    for task in ("retrieval", "classification"):
        with pytest.raises(VlcompressError, match="Siglip2Model reads patches of pictures of any size and wants"):
            EncoderFamily().config_of(CHECKPOINT, str(tmp_path), task, WORDS, 0)
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 32}
    words = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    qwen = transformers.Qwen2_5_VLConfig(vision_config=vision, text_config={**words, "num_key_value_heads": 4})
    qwen.save_pretrained(tmp_path)
    for task in ("retrieval", "classification", "vqa"):
        with pytest.raises(VlcompressError, match="Qwen2_5_VLModel reads patches of pictures of any size and wants"):
            EncoderFamily().config_of(CHECKPOINT, str(tmp_path), task, WORDS, 0)
    qwen.vision_config.save_pretrained(tmp_path)
    with pytest.raises(VlcompressError, match="reads none of input_ids and pixel_values"):
        EncoderFamily().config_of(CHECKPOINT, str(tmp_path), "classification", WORDS, 0)
    transformers.AutoConfig.for_model("florence_vision").save_pretrained(tmp_path)
    with pytest.raises(VlcompressError, match="is a 'florence_vision', which is no encoder"):
        EncoderFamily().config_of(CHECKPOINT, str(tmp_path), "classification", WORDS, 0)

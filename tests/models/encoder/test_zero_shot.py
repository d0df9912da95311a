"""The head of class names gives transformers' own zero-shot scores, and a run says what they come to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from PIL import Image

from tests.data.test_published_tokenizer import END, START, bpe
from vlcompress.cli.main import main
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.encoder.adapter import CHECKPOINT, EncoderFamily
from vlcompress.models.encoder.zero_shot import PROMPT, name_classes

CLASSES = ("blue_square", "red_circle")
_BLOCKS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A CLIP with its tokenizer, as `save_pretrained` writes it, and the model itself."""
    folder, tokenizer = tmp_path_factory.mktemp("clip"), bpe()
    ends = {"bos_token_id": tokenizer.token_to_id(START), "eos_token_id": tokenizer.token_to_id(END)}
    text = {**_BLOCKS, **ends, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 24}
    vision = {**_BLOCKS, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    model.eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": START}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, model


def test_scores_are_those_of_transformers(clip: tuple[Path, Any]) -> None:
    folder, official = clip
    words = EncoderFamily().words_of(str(folder))
    assert words is not None
    config = EncoderFamily().config_of(CHECKPOINT, str(folder), "classification", words, 0)
    family = EncoderFamily(config)
    model = family.build(config, Head("classes", CLASSES), seed=0).eval()
    family.load(model, str(folder), fresh_head=True)
    name_classes(model, str(folder), CLASSES)
    pixels = torch.rand(3, 3, 32, 32)
    texts = [words.rows([PROMPT.format(name)], 24)[0] for name in ("blue square", "red circle")]
    with torch.inference_mode():
        by_text = [official(input_ids=torch.from_numpy(ids)[None], pixel_values=pixels) for ids in texts]
        expected = torch.cat([one.logits_per_image for one in by_text], dim=1)
        torch.testing.assert_close(family.logits(model, {"pixel_values": pixels}), expected, atol=1e-5, rtol=1e-4)


def test_class_names_without_a_tokenizer_are_told(clip: tuple[Path, Any], tmp_path: Path) -> None:
    clip[1].save_pretrained(tmp_path)
    with pytest.raises(VlcompressError, match=r"no tokenizer to read class names with: add its tokenizer\.json"):
        name_classes(torch.nn.ModuleDict({"head": torch.nn.Linear(24, 2)}), str(tmp_path), CLASSES)


def test_a_run_on_class_folders_says_what_zero_shot_scores(clip: tuple[Path, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
                picture.save(tmp_path / "data" / split / name / f"{number}.png")
    asked = ["--task", "classification", "--data", str(tmp_path / "data"), "--pattern", "head", "--steps", "1"]
    few = ["--batch", "4", "--schedule", "oneshot", "--sparsity", "0.2", "--control", "none"]
    done = CliRunner().invoke(main, ["prune", "--model", str(clip[0]), *asked, *few, "--home", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.stderr
    assert "before any training, zero-shot: accuracy " in done.stderr
    assert "the classes named 'a photo of a {}.'" in done.stderr

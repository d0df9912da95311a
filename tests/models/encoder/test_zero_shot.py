"""The head of class names gives transformers' own zero-shot scores, and a run says what they come to."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import transformers
from click.testing import CliRunner
from pyarrow.parquet import write_table
from safetensors.torch import load_file

from tests.data.test_published_tokenizer import END, START, bpe
from vlcompress.cli.main import main
from vlcompress.data.pictures import encode
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.encoder.adapter import CHECKPOINT, EncoderFamily
from vlcompress.models.encoder.zero_shot import PROMPT, embedded, name_classes

CLASSES = ("blue_square", "red_circle")
_BLOCKS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 1}


@pytest.fixture(autouse=True)
def _without_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the trial export out, which tests/export/test_trial.py tries."""
    monkeypatch.setattr("vlcompress.export.trial.try_export", lambda *_, **__: None)


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


def pruned(checkpoint: Path, task: str, data: Path, home: Path, *more: str, code: int = 0) -> str:
    """Prune once as a user does, and give what is said on the way."""
    asked = ["--task", task, "--data", str(data), "--pattern", "head", "--steps", "1"]
    few = ["--batch", "4", "--schedule", "oneshot", "--sparsity", "0.2", "--control", "none"]
    done = CliRunner().invoke(main, ["prune", "--model", str(checkpoint), *asked, *few, "--home", str(home), *more])
    assert done.exit_code == code, done.stderr
    return done.stderr


CAPTIONS = ("a red dog", "two blue cats", "the green car", "one white man")


def karpathy(folder: Path, pictures: list[bytes]) -> None:
    """Write COCO's layout: the split file, and pictures in the folder that it names; all of them are scored."""
    (folder / "val2014").mkdir(parents=True)
    images = []
    for number, (data, text) in enumerate(zip(pictures * 2, CAPTIONS * 2, strict=True)):
        name = f"COCO_val2014_{number:012d}.png"
        (folder / "val2014" / name).write_bytes(data)
        split = "restval" if number == 0 else "train" if number < 4 else "test"
        sentence = {"sentid": number, "raw": text}
        images.append({"filepath": "val2014", "filename": name, "split": split, "sentences": [sentence]})
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


def parquet(folder: Path, pictures: list[bytes]) -> None:
    """Write a table of pictures and their captions for each split, as the hub has them."""
    (folder / "data").mkdir(parents=True)
    rows = pyarrow.table({"image": [{"bytes": data} for data in pictures], "caption": CAPTIONS})
    for split in ("train", "test"):
        write_table(rows, folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("layout", [karpathy, parquet])
def test_a_run_on_captions_says_what_zero_shot_scores(layout: Any, clip: tuple[Path, Any], tmp_path: Path) -> None:
    """The mean of the shares of pictures and captions whose partner transformers' own scores put first."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    layout(tmp_path / "data", [encode(one) for one in shown])
    said = pruned(clip[0], "retrieval", tmp_path / "data", tmp_path / "runs")
    words = EncoderFamily().words_of(str(clip[0]))
    assert words is not None
    ids = [torch.from_numpy(one)[None] for one in words.rows(CAPTIONS, 24)]
    pixels = torch.from_numpy(shown).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        scores = torch.cat([clip[1](input_ids=one, pixel_values=pixels).logits_per_text for one in ids])
    right = [(scores.argmax(side) == torch.arange(4)).float().mean().item() for side in (0, 1)]
    first = next(line for line in said.splitlines() if "zero-shot" in line)
    assert first == f"before any training, zero-shot: mean of image and text R@1 {50 * sum(right):.2f}"
    assert said.index(first) < said.index("seed 0 dense")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four random pictures of each class for training, and for scoring."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                picture = encode(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
                (tmp_path / "data" / split / name / f"{number}.png").write_bytes(picture)
    return tmp_path / "data"


def test_a_run_on_class_folders_says_what_zero_shot_scores(clip: tuple[Path, Any], pictures: Path) -> None:
    said = pruned(clip[0], "classification", pictures, pictures.parent / "runs")
    assert "before any training, zero-shot: accuracy " in said
    assert "the classes named 'a photo of a {}.' (--head names would start from it)" in said


def test_training_starts_from_the_head_of_class_names(clip: tuple[Path, Any], pictures: Path) -> None:
    """At a rate of next to nothing the dense model scores what zero-shot did, and its head holds the names."""
    home = pictures.parent / "runs"
    said = pruned(clip[0], "classification", pictures, home, "--head", "names", "--learning-rate", "1e-12")
    assert "(training starts from it)" in said
    score = re.search(r"zero-shot: accuracy ([\d.]+)", said)
    assert score is not None
    assert f"seed 0 dense: {score[1]} " in said
    ticket = load_file(next(home.glob("encoder-*")) / "ticket" / "head.safetensors")
    names = embedded(str(clip[0]), [PROMPT.format(name) for name in ("blue square", "red circle")])
    torch.testing.assert_close(ticket["head.weight"], names, atol=1e-6, rtol=0)


def test_class_names_need_two_towers_and_pictures(clip: tuple[Path, Any], pictures: Path) -> None:
    """Refused before training, in one line."""
    vision = pictures.parent / "vit"
    transformers.ViTModel(transformers.ViTConfig(**_BLOCKS, image_size=32, patch_size=8)).save_pretrained(vision)
    for checkpoint, task in ((vision, "classification"), (clip[0], "sentences")):
        data = str(pictures) if task == "classification" else "scenes:tiny"
        said = pruned(checkpoint, task, Path(data), pictures.parent / "runs", "--head", "names", code=2)
        assert "model.head 'names' is made by a checkpoint's text tower" in said.splitlines()[-1]

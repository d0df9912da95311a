"""What a model is written as opens in transformers as the same model, with nothing missing and nothing left over."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer

from tests.models.encoder.architectures import ENCODERS, config_of, head_of
from vlcompress.data.tokenizer import SPECIAL_TOKENS, WordPiece
from vlcompress.models.base import Config, Family, Head, HeadKind
from vlcompress.models.hub import HubForm, read_form, write_form, write_words
from vlcompress.models.registry import family_named
from vlcompress.models.uniter import heads as uniter
from vlcompress.training.checkpoint import distinct

LABELS = ("yes", "no", "red")
WORDS = WordPiece(SPECIAL_TOKENS + tuple(f"w{i}" for i in range(55)))
PLAIN: dict[str, tuple[HeadKind, ...]] = {
    "lxmert": ("answers", "pair", "pretraining"),
    "vilt": ("answers", "pair", "match", "pretraining"),
    "uniter": ("answers", "pair", "choice", "match", "region", "pretraining"),
}
CASES = [(name, kind) for name, kinds in PLAIN.items() for kind in kinds] + [(name, "") for name in ENCODERS]
WHOLE = {
    ("lxmert", "answers"): "LxmertForQuestionAnswering",
    ("vilt", "answers"): "ViltForQuestionAnswering",
    ("clip", ""): "CLIPModel",
    ("bert", ""): "BertForSequenceClassification",
    ("vit", ""): "ViTForImageClassification",
}
"""Models that transformers has with their heads, and the classes."""


def made(name: str, kind: str) -> tuple[Family, Config, Head, nn.Module]:
    """Build a tiny model whose biases are not zero, as after training."""
    if name in ENCODERS:
        config = config_of(name)
        family, head = family_named("encoder", config), head_of(name, config)
    else:
        family = family_named(name)
        labelled = kind in family.labelled_heads or kind == "pretraining"
        config, head = family.config("tiny", vocab_size=60, feature_dim=16), Head(kind, LABELS if labelled else ())
    model = family.build(config, head, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return family, config, head, model


def written(folder: Path, name: str, kind: str) -> tuple[Family, Config, nn.Module, HubForm]:
    family, config, head, model = made(name, kind)
    weights = distinct(model.state_dict())
    plain = {key: value for key, value in config.items() if key != "model_type"}
    form = family.hub_form(plain, head, weights)
    assert form is not None
    write_form(folder, form, weights)
    write_words(folder, WORDS.text, family.preprocessing(config)["longest_text"])
    back = read_form(folder, json.loads(json.dumps(form.to_json())))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in weights.items())
    return family, config, model, form


def batch(family: Family, config: Config) -> dict[str, Tensor]:
    inputs = family.example_inputs(config, batch=2, text=7, regions=3, seed=0)
    return {key: value.long() if value.dtype == torch.bool else value for key, value in inputs.items()}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_transformers_finds_every_tensor_and_no_other(name: str, kind: str, tmp_path: Path) -> None:
    *_, form = written(tmp_path, name, kind)
    made: Any = getattr(transformers, form.kind, None) or getattr(uniter, form.kind)
    _, info = made.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(form.missing)
    assert (list(info["unexpected_keys"]), list(info["mismatched_keys"])) == ([], [])
    if (name, kind) in WHOLE:
        assert (form.kind, form.missing, form.beside) == (WHOLE[name, kind], (), ())
    assert not form.missing or name in ("blip-itm", "blip-vqa", "sentence-bert")


SCRIPT = """
import json, sys
from pathlib import Path


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vlcompress":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Blocked())
import torch, transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForVisualQuestionAnswering


def error(folder, kind):
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    kept = load_file(folder / "inputs.st")
    expected = kept.pop("expected")
    with torch.inference_mode():
        output = model.eval()(**kept)
    places = ("logits", "question_answering_score", "logits_per_text")
    found = output if isinstance(output, torch.Tensor) else next(output[place] for place in places if place in output)
    return float((found - expected).abs().max() / expected.abs().max())


*alone, needing = map(Path, sys.argv[1:])
classes = {folder: json.loads((folder / "config.json").read_text())["architectures"][0] for folder in alone}
errors = {folder.name: error(folder, getattr(transformers, kind)) for folder, kind in classes.items()}
assert not any(name.partition(".")[0] == "vlcompress" for name in sys.modules)
sys.meta_path.pop(0)
import vlcompress
assert AutoConfig.from_pretrained(needing).model_type == "uniter"
errors["uniter"] = error(needing, AutoModelForVisualQuestionAnswering)
print(json.dumps(errors))
"""
"""Opens folders without this project, then the last one, UNITER's, with it imported."""


def test_a_process_without_this_project_gets_the_same_scores(tmp_path: Path) -> None:
    names = [key for key in WHOLE if key[0] != "vit"] + [("uniter", "answers")]
    for name, kind in names:
        folder = tmp_path / name
        folder.mkdir()
        family, config, model, _ = written(folder, name, kind)
        inputs = batch(family, config)
        with torch.inference_mode():
            scores = family.logits(model, inputs)
        if name == "clip":
            scores = scores[:, 0] @ scores[:, 1].T
        save_file({**inputs, "expected": scores}, folder / "inputs.st")
    script = [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name, _ in names)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 5
    assert max(errors.values()) < 1e-5, errors


def test_importing_this_project_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, vlcompress; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["lxmert", "bert", "clip"])
def test_its_tokenizer_gives_the_ids_that_it_was_trained_on(name: str, tmp_path: Path) -> None:
    written(tmp_path, name, "answers" if name in PLAIN else "")
    sentence = "w3 w7, w1 w50 and w2"
    found = AutoTokenizer.from_pretrained(tmp_path)(sentence)["input_ids"]
    assert found == WORDS.encode([sentence])[0].tolist()
    assert AutoTokenizer.from_pretrained(tmp_path)([sentence, "w1"], padding=True)["input_ids"][1][-1] == WORDS.pad_id


@pytest.mark.parametrize(("name", "kind"), [("vilt", "answers"), ("clip", ""), ("clip-vision", ""), ("vit", "")])
def test_its_image_processor_gives_the_pixels_that_it_was_trained_on(name: str, kind: str, tmp_path: Path) -> None:
    family, config, *_ = written(tmp_path, name, kind)
    picture = np.random.default_rng(0).integers(0, 256, (60, 96, 3), dtype=np.uint8)

    class One:
        def pixels(self, image: str) -> np.ndarray[Any, Any]:
            return picture

    source: Any = One()
    said = family.pictures(config, source).pixels("")
    sample: Any = type("Row", (), {"ids": np.array([2, 3]), "types": np.array([0, 0]), "images": (said,)})()
    expected = family.collate([sample])["pixel_values"]
    found = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"]
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.02, (found - expected).abs().max()

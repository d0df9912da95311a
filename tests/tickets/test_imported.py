"""Masks of others on the models that they were found on: matched to the bit, trained, compiled, or refused."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from vlcompress.cli.main import main
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.encoder.published import describe
from vlcompress.models.registry import family_named
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.mask_files import read_masks
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.tickets.imported import _tell_pattern, fitted_masks
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import load_ticket

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pruning"


@dataclass
class Model:
    """What `fitted_masks` asks of an experiment."""

    family: Family
    config: Config
    head: Head
    said: list[str] = field(default_factory=list)

    @property
    def train_task(self) -> "Model":
        return self

    def say(self, line: str) -> None:
        self.said.append(line)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return dict(self.family.build(self.config, self.head, seed=0).named_parameters())

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return {name: weight.shape for name, weight in self.weights.items()}

    def keep_all(self) -> Masks:
        model = self.family.build(self.config, self.head, seed=0)
        return Masks.keep_all({name: self.weights[name] for name in self.family.prunable(model, "bert-tickets").names})


def lxmert() -> Model:
    size = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "visual_feat_dim": 12}
    layers = {"l_layers": 1, "x_layers": 1, "r_layers": 1, "vocab_size": 30, "max_position_embeddings": 20}
    return Model(family_named("lxmert"), size | layers, Head("answers", ("a", "b", "c", "d", "e")))


def bert() -> Model:
    size = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 12}
    own = BertModel(BertConfig(**size, vocab_size=30, max_position_embeddings=20))
    config = describe("BertModel", own, "sentences")
    return Model(family_named("encoder", config), config, Head("classes", ("a", "b")))


def fitted(model: Any, given: dict[str, Tensor]) -> Masks:
    return fitted_masks(given, model, Path("masks"))


def flat(masks: Masks, case: str, key: str, model: Model, rename: Any) -> Tensor:
    layout = json.loads((FIXTURES / case / "meta.json").read_text())[key]
    return torch.cat([masks[rename(name)].flatten() for name, _, _ in layout])


def test_masks_by_position_are_those_of_the_official_lxmert() -> None:
    model = lxmert()
    masks = fitted(model, read_masks(FIXTURES / "paper_b_low" / "Low_Magnitude-30_percentage_mask.npz"))
    pruned = load_file(FIXTURES / "paper_b_low" / "case.safetensors")["low_30/mask_pruned1"]

    def rename(name: str) -> str:
        return next(iter(model.family.canonical({name: torch.zeros(1)})))

    layout = json.loads((FIXTURES / "paper_b_low" / "meta.json").read_text())
    order = [rename(name) for name, _, _ in layout["layout_all_name_shape_offset"]]
    assert order == list(model.weights)
    found = flat(masks, "paper_b_low", "layout_mask_name_shape_offset", model, rename)
    assert torch.equal(found, pruned == 0)


def test_bert_tickets_masks_fit_an_encoder() -> None:
    model = bert()
    masks = fitted(model, read_masks(FIXTURES / "bert_tickets_3rounds" / "mask.pt"))
    kept = load_file(FIXTURES / "bert_tickets_3rounds" / "rounds.safetensors")["round3/mask"]
    found = flat(
        masks, "bert_tickets_3rounds", "layout_name_shape_offset", model, lambda name: f"encoder.language.{name[5:]}"
    )
    assert torch.equal(found, kept == 1)
    assert "encoder.language.pooler.dense.weight" in masks  # theirs, though the policy here leaves it alone


def test_cv_lths_masks_fit_a_resnet() -> None:
    size = {"embedding_size": 2, "hidden_sizes": [2, 4, 8, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    model = Model(family_named("resnet"), size | {"stem": "cifar", "image_size": 16}, Head("classes", ("a", "b")))
    policy = model.family.policies[0]
    given = read_masks(FIXTURES / "cv_lth_3rounds" / "model_SA_best.pth.tar")

    class Named(Model):
        def keep_all(self) -> Masks:
            built = self.family.build(self.config, self.head, seed=0)
            return Masks.keep_all({name: self.weights[name] for name in self.family.prunable(built, policy).names})

    masks = fitted(Named(model.family, model.config, model.head), given)
    kept = load_file(FIXTURES / "cv_lth_3rounds" / "rounds.safetensors")["round3/mask"]
    assert masks.kept == int((kept == 1).sum())
    assert masks.total == kept.numel()


ONE = "lxmert.encoder.layer.0.attention.self.query.weight"
HALF = torch.tensor([[True, False] * 4] * 8)


@pytest.mark.parametrize(
    "name",
    [
        ONE,
        f"module.{ONE}",
        "bert.encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.attention.self.query.weight",
    ],
)
def test_a_name_may_be_wrapped_official_or_cut(name: str) -> None:
    masks = fitted(lxmert(), {name: HALF})
    assert torch.equal(masks[ONE], HALF)
    assert masks.total - masks.kept == 32


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"encoder.layer.9.weight": HALF},
            "'masks' masks weights that LXMERT does not have: encoder.layer.9.weight; give",
        ),
        ({ONE: HALF[:4]}, r"'masks': mask '.*query.weight' is \(4, 8\), the weight '.*' \(8, 8\): give the --model"),
        ({ONE: torch.ones(8, 8, dtype=torch.bool)}, "'masks' prunes nothing: 1 means keep"),
        ({"99": HALF}, "masks weights that LXMERT does not have: 99"),
        ({"query.weight": HALF}, "masks weights that LXMERT does not have: query.weight"),
    ],
)
def test_masks_that_do_not_fit_are_one_line(given: dict[str, Tensor], said: str) -> None:
    with pytest.raises(VlcompressError, match=said) as caught:
        fitted(lxmert(), given)
    assert "\n" not in str(caught.value)


def test_a_tied_weight_is_refused() -> None:
    model = lxmert()
    model.head = Head("pretraining", model.head.labels)
    with pytest.raises(VlcompressError, match=r"decoder.weight' is tied to another weight"):
        fitted(model, {"cls.predictions.decoder.weight": torch.ones(30, 8, dtype=torch.bool)})


def test_a_mask_of_another_tasks_head_is_left_out_and_told() -> None:
    model = lxmert()
    fitted(model, {ONE: HALF, "answer_head.logit_fc.3.weight": torch.ones(9, 16, dtype=torch.bool)})
    assert model.said == ["warning: mask 'answer_head.logit_fc.3.weight' is of another task's head: it is left out"]


BLOCKS = torch.ones(8, 8, dtype=torch.bool)
BLOCKS[:4, :4] = False  # a whole block of 4 x 4, and half of another one
BLOCKS[4:6, 4:] = False


@pytest.mark.parametrize(
    ("pattern", "mask", "said"),
    [
        ("block:4x4", BLOCKS, "33% of what 'f' prunes is not in whole units of pattern 'block:4x4'"),
        ("block:2x4", BLOCKS, ""),
        ("2:4", torch.tensor([True, False, True, True]).repeat(8, 2), "100% of what 'f' prunes"),
        ("1:4", torch.eye(4).bool(), ""),
        ("neuron+head", BLOCKS, ""),
    ],
)
def test_what_is_not_in_the_units_of_the_pattern_is_told(pattern: str, mask: Tensor, said: str) -> None:
    lines: list[str] = []
    _tell_pattern(Masks({"w": mask}), parse_pattern(pattern), Path("f"), lines.append)
    assert bool(lines) is bool(said)
    assert all(said in line for line in lines)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_imported_masks_make_a_run_that_goes_on_to_onnx_and_out_again(tiny_scenes: Path, tmp_path: Path) -> None:
    family = family_named("lxmert")
    config = family.config("tiny", vocab_size=60, feature_dim=16)
    model = family.build(config, Head("answers", ("a",)), seed=0)
    names = family.prunable(model, "bert-tickets").names
    generator = torch.Generator().manual_seed(0)
    weights = model.state_dict()
    given = {name: torch.rand(weights[name].shape, generator=generator) < 0.4 for name in names}
    save_file(given, tmp_path / "theirs.safetensors")
    home = ["--home", str(tmp_path / "runs")]
    command = ["ticket", "import", str(tmp_path / "theirs.safetensors"), "--size", "tiny", "--steps", "2"]
    command += ["--checkpoint", "none", "--data", str(tiny_scenes), "--json", *home]
    code, out, err = run(*command)
    assert code == 0, err
    assert "theirs.safetensors' keeps 40% and removes 60% of the weights that it masks, since 1 is read as keep" in err
    document = json.loads(out)
    made = Run(Path(document["run"]))
    assert document["masks_from"]["file"] == "theirs.safetensors"
    ticket = load_ticket(made.ticket)
    assert all(torch.equal(ticket.masks[name], mask) for name, mask in given.items())
    assert "The masks are those of `theirs.safetensors`" in (made.ticket / "README.md").read_text()
    assert "these masks have been imported" in run(*command)[2]
    for form, file in (("torch-prune", "masks.pt"), ("npz", "masks.npz"), ("safetensors", "masks.safetensors")):
        code, _, err = run("ticket", "export", str(made.folder), "--as", form, *home)
        assert code == 0, err
        again = read_masks(made.folder / file)
        assert again.keys() == given.keys()
        assert all(torch.equal(again[name], mask) for name, mask in given.items())
    code, _, err = run("compile", str(made.folder), "--batch", "2", *home)
    assert code == 0, err
    code, _, err = run("ticket", "import", str(tmp_path / "none.pt"), "--size", "tiny", "--checkpoint", "none", *home)
    assert (code, err.splitlines()[-1]) == (2, f"error: no masks at '{tmp_path / 'none.pt'}': give a file that exists")

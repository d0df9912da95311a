"""The BERT-init control: the ticket's mask on a language model's weights, where they fit, and fresh ones elsewhere."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from vlcompress.artefacts import load_tensors
from vlcompress.errors import VlcompressError
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.tickets.checks import check_run
from vlcompress.tickets.experiment import Experiment, build_model, tensors_sha256
from vlcompress.tickets.imp import train_arms
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.spec import Trial

LAYER = "encoder.layer.0.attention.self.query.weight"
QUERY = {family: (f"{family}.{LAYER}", f"bert.{LAYER}") for family in ("lxmert", "uniter")}
VISION = {"lxmert": "lxmert.encoder.visn_fc.visn_fc.weight", "uniter": "uniter.img_embeddings.img_linear.weight"}


def recipe_of(family: str, data: Path) -> Recipe:
    return default_recipe(family, "vqa", "tiny").override(
        data={"source": str(data)}, pruning={"controls": ["language"]}, training={"steps": 4}
    )


def opened(recipe: Recipe, home: Path, lines: list[str] | None = None) -> Experiment:
    say = [].append if lines is None else lines.append
    return open_experiment(recipe, home, say=say)


@pytest.mark.parametrize("family", ["lxmert", "uniter"])
def test_a_language_model_is_made_once_and_fills_what_reads_words(
    family: str, tiny_scenes: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    experiment = opened(recipe_of(family, tiny_scenes), tmp_path, lines)
    path, name = experiment.language
    words = load_tensors(Path(path))
    start, fresh = (build_model(experiment, Trial(1, start=one)).state_dict() for one in ("language", "fresh"))
    assert all(torch.equal(start[name], value) for name, value in words.items())
    assert not torch.equal(start[QUERY[family][0]], fresh[QUERY[family][0]])
    assert torch.equal(start[VISION[family]], fresh[VISION[family]])
    assert not any("visn" in name or "img" in name or "cls" in name for name in words)
    assert opened(recipe_of(family, tiny_scenes), tmp_path, lines).language == (path, name)
    assert sum("language model" in line for line in lines) == 1


@pytest.mark.usefixtures("whole_trainings")
def test_the_control_keeps_the_tickets_mask(tiny_scenes: Path, tmp_path: Path) -> None:
    cells = train_arms(opened(recipe_of("lxmert", tiny_scenes), tmp_path))
    ticket, language = cells[-2:]
    assert language.arm == "language"
    assert language.trained[0].masks().sha256() == ticket.trained[0].masks().sha256()
    assert language.trained[0].weights().keys() == ticket.trained[0].weights().keys()


@pytest.mark.parametrize("family", ["lxmert", "uniter"])
def test_a_bert_of_another_depth_serves_too(family: str, tiny_scenes: Path, tmp_path: Path) -> None:
    recipe = recipe_of(family, tiny_scenes)
    config = opened(recipe, tmp_path).config
    sizes = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    layers = 3 if family == "lxmert" else config["num_hidden_layers"]
    bert = BertForPreTraining(BertConfig(**{name: config[name] for name in sizes}, num_hidden_layers=layers))
    bert.save_pretrained(tmp_path / "bert")
    experiment = opened(recipe.override(model={"language": str(tmp_path / "bert")}), tmp_path)
    start = build_model(experiment, Trial(0, start="language")).state_dict()
    mine, theirs = QUERY[family]
    assert torch.equal(start[mine], bert.state_dict()[theirs])
    assert experiment.load_report is not None
    assert any("BERT-init control" in note for note in experiment.load_report.notes)
    assert experiment.spec(Trial(0, start="language")).document()["language"] != opened(recipe, tmp_path).language[1]


@pytest.mark.parametrize("family", ["lxmert", "uniter"])
def test_weights_that_know_images_are_refused(family: str, tiny_scenes: Path, tmp_path: Path) -> None:
    recipe = recipe_of(family, tiny_scenes)
    experiment = opened(recipe, tmp_path)
    trained = experiment.train(Trial(0), "dense")
    other = opened(recipe.override(model={"language": str(trained.folder / "weights.safetensors")}), tmp_path)
    with pytest.raises(VlcompressError, match="has weights for images, so it is no language model"):
        build_model(other, Trial(0, start="language"))


def test_a_family_without_a_language_part_is_refused_before_training(tiny_scenes: Path, tmp_path: Path) -> None:
    recipe = default_recipe("vilt", "vqa", "tiny").override(pruning={"controls": ["language"]})
    with pytest.raises(VlcompressError, match=r"control 'language'.*vilt.*it is there for lxmert, uniter"):
        check_run(opened(recipe, tmp_path))


def test_identities_of_other_trainings_are_what_they_were(tiny_scenes: Path, tmp_path: Path) -> None:
    """The control adds to no other training's document, so none that was done before is done again."""
    experiment = opened(recipe_of("lxmert", tiny_scenes), tmp_path)
    assert "language" not in experiment.spec(Trial(0, experiment.keep_all(), "shuffled")).document()
    assert set(experiment.spec(Trial(0)).document()) == {
        "generation", "family", "config", "theta0", "task", "data", "vocabulary", "hyper", "seed", "mask", "start",
        "rewind_step",
    }  # fmt: skip
    assert tensors_sha256(experiment.theta0) == experiment.theta0_sha256

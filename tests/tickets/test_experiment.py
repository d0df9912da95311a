"""What a training starts from: the ranking head of retrieval comes with the pre-trained weights, other heads do not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.models.base import Head
from vlcompress.models.registry import family_named
from vlcompress.pruning.mask import Masks
from vlcompress.recipe import default_recipe
from vlcompress.tickets.experiment import Experiment, build_model
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.spec import Trial


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data of retrieval."""
    return make_benchmark(tmp_path_factory.mktemp("data") / "captions", "retrieval", size="tiny", processes=1)


def opened(data: Path, home: Path, checkpoint: str) -> Experiment:
    recipe = default_recipe("uniter", "retrieval", "tiny").override(
        model={"checkpoint": checkpoint}, data={"source": str(data)}, pruning={"seeds": [0, 1]}
    )
    return open_experiment(recipe, home, say=lambda line: None)


def test_ranking_head_starts_from_pre_training_under_every_seed(captions: Path, tmp_path: Path) -> None:
    family = family_named("uniter")
    pretrained = family.build(opened(captions, tmp_path, "none").config, Head("pretraining"), seed=9)
    tensors = {name: value.clone() for name, value in pretrained.state_dict().items()}
    save_file(tensors, tmp_path / "x.safetensors")
    experiment = opened(captions, tmp_path, str(tmp_path / "x.safetensors"))
    for seed in (0, 1):
        start = build_model(experiment, Trial(seed)).state_dict()
        assert torch.equal(start["rank_output.weight"], tensors["itm_output.weight"][1:])
    fresh = build_model(experiment, Trial(0, start="fresh")).state_dict()
    assert not torch.equal(fresh["rank_output.weight"], tensors["itm_output.weight"][1:])


def test_a_mask_that_is_not_held_prunes_the_start_and_no_more(captions: Path, tmp_path: Path) -> None:
    experiment = opened(captions, tmp_path, "none")
    masks = Masks(
        {name: torch.arange(mask.numel()).view(mask.shape) % 2 == 0 for name, mask in experiment.keep_all().items()}
    )
    start = build_model(experiment, Trial(0, masks, held=False)).state_dict()
    for name, mask in masks.items():
        assert torch.equal(start[name], experiment.theta0[name] * mask)


def test_a_training_is_told_with_its_score_in_percent(captions: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    experiment = opened(captions, tmp_path, "none")
    experiment.say = lines.append
    for _ in range(2):
        score = experiment.train(Trial(0), "dense").scores.mean
    assert [line.rsplit(" (", 1)[0] for line in lines[-2:]] == [f"dense: {100 * score:.2f}"] * 2
    assert score > 0
    assert lines[-1].endswith(" (done before)")


def test_data_smaller_than_a_batch_are_a_step_an_epoch(captions: Path, tmp_path: Path) -> None:
    recipe = opened(captions, tmp_path, "none").recipe.override(training={"steps": 0, "epochs": 3.0, "batch": 100_000})
    assert open_experiment(recipe, tmp_path, say=lambda line: None).hyper.steps == 3


def test_without_a_checkpoint_every_seed_has_a_ranking_head_of_its_own(captions: Path, tmp_path: Path) -> None:
    experiment = opened(captions, tmp_path, "none")
    first, second = (build_model(experiment, Trial(seed)).state_dict()["rank_output.weight"] for seed in (0, 1))
    assert not torch.equal(first, second)

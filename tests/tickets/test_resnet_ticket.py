"""A ticket of a ResNet: batch statistics are rewound and saved with the weights, pruned convolutions are bit-zero."""

from pathlib import Path

import pytest
import torch

from vlcompress.artefacts import load_tensors
from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.recipe import Recipe, parse_recipe
from vlcompress.tickets.experiment import Experiment, build_model
from vlcompress.tickets.imp import train_arms
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.spec import Trial
from vlcompress.tickets.store import REWIND

MEAN = "resnet.embedder.embedder.normalization.running_mean"
COUNT = "resnet.embedder.embedder.normalization.num_batches_tracked"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "classes"
    make_benchmark(folder, "classification", size="tiny")
    return folder


def _bench(folder: Path, home: Path, rewind_step: int = 0) -> Experiment:
    recipe: Recipe = parse_recipe(
        {
            "model": {"family": "resnet", "size": "tiny", "checkpoint": "none"},
            "data": {"task": "classification", "source": str(folder), "train": ["train"], "score": "test"},
            "pruning": {
                "prunable": "conv-except-conv1",
                "schedule": "geometric:0.2",
                "sparsity": 0.36,
                "rewind_step": rewind_step,
            },
            "training": {"steps": 4, "batch": 16, "learning_rate": 0.1, "optimizer": "sgd"},
        }
    )
    return open_experiment(recipe, home, say=lambda line: None)


def test_statistics_are_rewound_and_saved(folder: Path, tmp_path: Path) -> None:
    experiment = _bench(folder, tmp_path)
    *_, last = train_arms(experiment)
    saved = last.trained[0].weights()
    assert int(saved[COUNT]) == 4
    assert not torch.equal(saved[MEAN], experiment.theta0[MEAN])
    masks = last.trained[0].masks()
    assert masks.sparsity == pytest.approx(0.36, abs=1e-3)
    for name, mask in masks.items():
        assert not saved[name][~mask].view(torch.int32).any(), name
    start = build_model(experiment, Trial(0, masks)).state_dict()
    assert int(start[COUNT]) == 0
    assert all(torch.equal(start[name], value) for name, value in experiment.theta0.items())


def test_rewinding_to_a_step_takes_that_steps_statistics(folder: Path, tmp_path: Path) -> None:
    experiment = _bench(folder, tmp_path, rewind_step=2)
    dense = experiment.train(Trial(0), "dense")
    snapshot = load_tensors(dense.folder / REWIND)
    assert int(snapshot[COUNT]) == 2
    start = build_model(experiment, Trial(0, experiment.keep_all(), "rewound")).state_dict()
    assert all(torch.equal(start[name], value) for name, value in snapshot.items())

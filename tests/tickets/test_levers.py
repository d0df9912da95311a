"""The levers of a recipe on whole runs: what they change, and that at their defaults they change nothing."""

from pathlib import Path

import pytest
import torch

from vlcompress.artefacts import load_tensors, read_json
from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.errors import VlcompressError
from vlcompress.pruning.allocation import Global, prune
from vlcompress.pruning.criterion import parse_criterion
from vlcompress.pruning.pattern import Block
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.tickets.imp import run_cells
from vlcompress.tickets.run import find_ticket, open_workbench
from vlcompress.tickets.workbench import Trained, Trial, Workbench

CPU = torch.device("cpu")


def workbench(recipe: Recipe, home: Path) -> Workbench:
    return open_workbench(recipe, home, device=CPU, say=lambda line: None)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return load_tensors(trained.folder / "weights.safetensors")


def test_at_their_defaults_no_identity_changes(recipe: Recipe, tmp_path: Path) -> None:
    """Names of runs and trainings that exist: the levers may add to a document only where they are used."""
    assert default_recipe("lxmert", "vqa", "small").sha256().startswith("a65e69895b907cc5")
    bench = workbench(recipe, tmp_path)
    for trial in (Trial(0), Trial(0, bench.keep_all())):
        assert list(bench._document(trial)) == [
            *("generation", "family", "config", "theta0", "task", "data", "vocabulary", "hyper", "seed", "mask"),
            *("start", "rewind_step"),
        ]
    assert list(bench.hyper.document()) == [
        *("steps", "batch", "learning_rate", "warmup", "clip", "weight_decay", "head_rate"),
    ]


@pytest.mark.parametrize("criterion", ["gradient", "movement"])
def test_saliency_is_summed_for_its_criterion_alone_and_ranks(recipe: Recipe, tmp_path: Path, criterion: str) -> None:
    plain = workbench(recipe, tmp_path).train(Trial(0), "dense")
    bench = workbench(recipe.override(pruning={"criterion": criterion, "pattern": "block:8x4"}), tmp_path)
    dense, first, _ = (cell.trained[0] for cell in run_cells(bench))
    assert plain.saliency() == {}
    assert dense.folder != plain.folder
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(dense).items())
    assert read_json(dense.folder / "training.json")["saliency"] == criterion
    assert set(dense.saliency()) == set(bench.prunable.names)
    expected = prune(
        dense.weights(),
        bench.keep_all(),
        0.25,
        pattern=Block(8, 4),
        criterion=parse_criterion(criterion, 0, dense.saliency()),
        allocation=Global(),
    )
    assert first.masks().sha256() == expected.sha256()
    control = bench._document(Trial(0, first.masks(), "shuffled"))
    assert "saliency" not in control


def test_the_dense_model_teaches_every_sparse_one_and_is_shared(recipe: Recipe, tmp_path: Path) -> None:
    plain = [cell.trained[0] for cell in run_cells(workbench(recipe, tmp_path))]
    taught = [cell.trained[0] for cell in run_cells(workbench(recipe.override(training={"distill": 1.0}), tmp_path))]
    assert taught[0].folder == plain[0].folder
    assert taught[1].masks().sha256() == plain[1].masks().sha256()
    for one, other in zip(taught[1:], plain[1:], strict=True):
        assert one.folder != other.folder
        assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    teacher = read_json(taught[0].folder / "training.json")["identity"]
    assert read_json(taught[1].folder / "training.json")["distill"] == {"weight": 1.0, "teacher": teacher}


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_of_the_teacher_that_is_none(recipe: Recipe, weight: float) -> None:
    with pytest.raises(VlcompressError, match=r"training.distill is .*: give 0 \(off\), or a weight above 0"):
        recipe.override(training={"distill": weight})


def test_a_task_without_logits_cannot_be_taught(tmp_path: Path) -> None:
    captions = make_benchmark(tmp_path / "captions", "retrieval", size="tiny", processes=1)
    recipe = default_recipe("lxmert", "pretraining", "tiny").override(
        data={"source": str(captions)}, training={"distill": 0.5}
    )
    with pytest.raises(VlcompressError, match="distillation compares logits, which this task has none of"):
        find_ticket(recipe, tmp_path, device=CPU, say=lambda line: None)
    assert not list(tmp_path.rglob("trainings"))

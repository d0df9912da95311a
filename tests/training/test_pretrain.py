"""Pre-training from a folder to a checkpoint that its family loads, for every family that has one."""

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.training.test_watching import Seen
from vlcompress.artefacts import load_tensors, read_json
from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.data.scenes.write import make_scenes
from vlcompress.devices import CPU, Compute
from vlcompress.models.base import Head, pretraining_of
from vlcompress.models.registry import FAMILIES, family_named
from vlcompress.training import pretrain as training
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.pretrain import Pretraining, PretrainingRecipe, pretrain

PRETRAINED = [name for name, family in FAMILIES.items() if family.pretraining]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sentences and regions for the families that read regions, captions and pictures for those that read pixels."""
    root = tmp_path_factory.mktemp("data")
    make_benchmark(root / "captions", "retrieval", size="tiny")
    return {
        "regions": make_scenes(root / "scenes", size="tiny", pretrain=6, images=False),
        "pixels": root / "captions",
    }


def _work(name: str, folders: dict[str, Path]) -> Pretraining:
    folder = folders[family_named(name).reads]
    spec = pretraining_of(family_named(name))
    hyper = Hyperparameters(
        6, 4, 1e-3, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0, optimizer=spec.optimizer
    )
    return Pretraining(
        family_named(name), folder, PretrainingRecipe("tiny", hyper, spec.settings_with({}, built_in=True))
    )


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("name", PRETRAINED)
def test_result_loads_into_a_model_with_a_fresh_head(
    scenes: dict[str, Path], tmp_path: Path, name: str, half: bool
) -> None:
    work = _work(name, scenes)
    folder = pretrain(work, tmp_path, half=half, say=lambda line: None)
    family = family_named(name)
    start = family.build(work.config, Head("answers", ("yes", "no")), seed=0)
    before = {key: value.clone() for key, value in start.state_dict().items()}
    report = family.load(start, str(folder / "weights.safetensors"), fresh_head=True)
    assert report.head == "fresh"
    moved = [key for key, value in start.state_dict().items() if not torch.equal(value, before[key])]
    assert moved
    assert all(key.startswith(family.backbone_prefix) for key in moved)
    again = pretrain(_work(name, scenes), tmp_path, half=half, say=lambda line: None)
    assert again == folder


@pytest.mark.parametrize("name", PRETRAINED)
def test_another_dtype_is_a_pretraining_of_its_own(scenes: dict[str, Path], tmp_path: Path, name: str) -> None:
    def run(compute: Compute) -> Path:
        return pretrain(_work(name, scenes), tmp_path, compute=compute, say=lambda line: None)

    usual, halved = run(CPU), run(Compute("cpu", "bf16"))
    assert usual != halved
    assert "computed_on" not in read_json(usual / "pretraining.json")
    assert read_json(halved / "pretraining.json")["computed_on"] == {"device": "cpu", "dtype": "bf16"}
    one, other = (load_tensors(folder / "weights.safetensors") for folder in (usual, halved))
    assert {value.dtype for value in other.values()} == {torch.float32}
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_nothing_is_left_of_an_interrupted_pretraining_once_it_is_finished(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> Path:
        return pretrain(_work("lxmert", scenes), tmp_path, say=lambda line: None)

    patient = training.train
    monkeypatch.setattr(training, "train", partial(patient, checkpoint_seconds=0.0))
    monkeypatch.setattr(training, "writing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(tmp_path.glob("pretrained/*.under-way"))
    monkeypatch.undo()
    assert run().is_dir()
    assert not list(tmp_path.glob("pretrained/*.under-way"))


def test_the_log_has_the_mean_loss_of_every_so_many_steps(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LOGGED_EVERY", 2)
    seen = Seen()
    folder = pretrain(_work("lxmert", scenes), tmp_path, say=lambda line: None, progress=seen)
    losses = [entry.loss for entry in seen.entries]
    means = [round((first + second) / 2, 4) for first, second in zip(losses[::2], losses[1::2], strict=True)]
    assert read_json(folder / "pretraining.json")["log"] == [
        {"step": step, "loss": mean} for step, mean in zip((2, 4, 6), means, strict=True)
    ]


def interrupted(folder: Path) -> None:
    raise KeyboardInterrupt

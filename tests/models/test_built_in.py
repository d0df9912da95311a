"""The weights in the package are the ones that their records describe, load strictly, and have learnt."""

import json
from pathlib import Path

import pytest
import torch

import vlcompress
from vlcompress.artefacts import file_sha256
from vlcompress.data.scenes.benchmarks import make_benchmark
from vlcompress.data.scenes.write import make_scenes
from vlcompress.models.base import Head, pretraining_of
from vlcompress.models.registry import family_named
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.pretrain import Pretraining, PretrainingRecipe

FOLDER = Path(vlcompress.__file__).parent / "weights"
LOSS = {"lxmert": 5.0, "uniter": 1.2}
"""What the pre-training loss on new pictures must stay below: random weights have twice as much."""


@pytest.fixture(params=sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def weights(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_hash_size_and_record(weights: Path) -> None:
    record = json.loads(weights.with_suffix(".json").read_text())
    assert file_sha256(weights) == record["files"][weights.name]["sha256"]
    assert weights.stat().st_size < 16e6
    losses = [entry["loss"] for entry in record["log"]]
    assert losses[-1] < losses[0] / 2


def test_they_load_into_the_size_that_they_are_of(weights: Path) -> None:
    record = json.loads(weights.with_suffix(".json").read_text())
    family = family_named(record["family"])
    config = family.config("small", vocab_size=88, feature_dim=128)
    model = family.build(config, Head("answers", ("yes", "no")), seed=0)
    report = family.load(model, str(weights), fresh_head=True)
    assert report.head == "fresh"
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_their_command_makes_the_recipe_that_they_record(weights: Path) -> None:
    record = json.loads(weights.with_suffix(".json").read_text())
    assert _recipe(record).document() == record["recipe"]


def test_they_know_pictures_that_they_have_not_seen(weights: Path, tmp_path: Path) -> None:
    record = json.loads(weights.with_suffix(".json").read_text())
    family = family_named(record["family"])
    folder = make_scenes(tmp_path / "scenes", size="tiny", seed=1, pretrain=32, images=False)
    if family.reads == "pixels":
        folder = make_benchmark(tmp_path / "captions", "retrieval", size="tiny")
    work = Pretraining(family, folder, _recipe(record))
    model = family.build(work.config, work.head, seed=0).eval()
    family.load(model, str(weights))
    batches = [work.objective.batch(range(128), torch.Generator().manual_seed(seed)) for seed in range(8)]
    with torch.inference_mode():
        loss = torch.stack([work.objective.loss(model, batch) for batch in batches]).mean()
    assert float(loss) < LOSS[family.name]


def _recipe(record: dict[str, object]) -> PretrainingRecipe:
    """Make the recipe of a record's command: what it gives, and the defaults of `vlcompress pretrain`."""
    words = str(record["command"]).split()
    given = {"--steps": "4000", "--batch": "128", "--learning-rate": "7e-4"}
    given |= {name: words[words.index(name) + 1] for name in given if name in words}
    spec = pretraining_of(family_named(str(record["family"])))
    fixed = {"warmup": 0.1, "clip": 5.0, "weight_decay": 0.01, "head_rate": 1.0}
    steps, batch, rate = int(given["--steps"]), int(given["--batch"]), float(given["--learning-rate"])
    return PretrainingRecipe(
        "small",
        Hyperparameters(steps, batch, rate, optimizer=spec.optimizer, **fixed),
        spec.settings_with({}, built_in=True),
    )

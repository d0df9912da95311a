"""Finished trainings on disk: found by their spec, whole or absent, without what was kept while under way."""

from pathlib import Path

import pytest
import torch

from vlcompress.artefacts import read_json, save_tensors
from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.permutation import Permutation
from vlcompress.tasks.base import Scores
from vlcompress.tickets.spec import TrainingSpec, Trial
from vlcompress.tickets.store import TIME, TrainingResult, TrainingStore
from vlcompress.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(8, 16, 1e-3, warmup=0.1, clip=5.0, weight_decay=0.01, head_rate=1.0)
SPEC = TrainingSpec(
    1, "lxmert", {}, "c", "vqa", ("a", "b"), "d", HYPER, seed=0, mask="m", start="theta0", rewind_step=2
)
MASKS = Masks({"w": torch.tensor([[True, False], [False, True]])})
ORDER = Permutation({"w": torch.tensor([1, 0])}, {})
WEIGHTS = {"w": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}
SCORES = Scores(torch.tensor([0.5, 1.0]), torch.tensor([3, 4]), {"yes": 0.25})


def kept(store: TrainingStore) -> TrainingResult:
    return store.keep(SPEC, Trial(0, MASKS, permutation=ORDER), WEIGHTS, SCORES, {"w": torch.ones(2, 2)}, 1.23)


def test_what_is_kept_is_found_as_it_was(tmp_path: Path) -> None:
    store = TrainingStore(tmp_path)
    assert store.find(SPEC) is None
    kept(store)
    found = store.find(SPEC)
    assert found is not None
    assert torch.equal(found.weights()["w"], WEIGHTS["w"])
    assert found.masks().sha256() == MASKS.sha256()
    assert found.permutation().sha256() == ORDER.sha256()
    assert (found.scores.mean, dict(found.scores.figures)) == (0.75, {"yes": 0.25})
    assert found.saliency()["w"].sum() == 4
    assert found.layer_sparsity() == {"w": 0.5}
    assert read_json(found.folder / TIME) == {"seconds": 1.2}
    assert found.folder.name == SPEC.sha256[:16]
    document = read_json(found.folder / "training.json")
    assert document["identity"] == SPEC.sha256
    assert SPEC.document().items() <= {**document, "data": tuple(document["data"])}.items()


def test_another_order_is_read_of_weights_and_sums(tmp_path: Path) -> None:
    folder = kept(TrainingStore(tmp_path)).folder
    assert torch.equal(TrainingResult(folder, reading=ORDER).weights()["w"], WEIGHTS["w"][[1, 0]])


def test_nothing_is_left_of_what_was_under_way_but_the_rewinding_point(tmp_path: Path) -> None:
    store = TrainingStore(tmp_path)
    store.under_way(SPEC).mkdir(parents=True)
    save_tensors(store.rewind(SPEC), WEIGHTS)
    assert store.find(SPEC) is None
    found = kept(store)
    assert [path.name for path in tmp_path.iterdir()] == [found.folder.name]
    assert torch.equal(found.rewind()["w"], WEIGHTS["w"])


def test_a_damaged_training_is_refused(tmp_path: Path) -> None:
    store = TrainingStore(tmp_path)
    (kept(store).folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(VlcompressError, match=r"weights\.safetensors"):
        store.find(SPEC)

"""The two readings of paper b: which weights go, how many, and whether they stay away."""

import json
import math
from pathlib import Path

import pytest
import torch

from vlcompress.artefacts import load_tensors
from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.pruning.mask import Masks
from vlcompress.studies.base import Choices, StudyRunner
from vlcompress.studies.paper_b import RELEASED, PaperB, labelled_high
from vlcompress.studies.run import run_study

TINY = Choices(size="tiny", source="scenes:tiny", seeds=(0,), levels=(0.5,))


def test_the_released_code_prunes_what_the_paper_excludes() -> None:
    family = LxmertFamily()
    config = family.config("base", vocab_size=30522, feature_dim=2048)
    model = family.skeleton(config, Head("answers", tuple(f"{i}" for i in range(3129))))
    released = family.prunable(model, "as-released")
    assert released.weights == 190_082_304
    assert "answer_head.logit_fc.3.weight" in released.names
    assert "answer_head.logit_fc.3.bias" in released.excluded
    with pytest.raises(VlcompressError, match="as-released"):
        family.prunable(model, "everything")


def test_its_labels_stand_for_other_sparsities() -> None:
    assert [round(100 * real, 1) for real in RELEASED] == [10.0, 27.1, 34.4, 41.0, 52.2, 61.3, 71.8, 81.5, 90.2]


@pytest.mark.usefixtures("whole_trainings")
def test_both_readings_run_and_only_one_holds_its_masks(tmp_path: Path) -> None:
    outcome = run_study(PaperB(), TINY, StudyRunner(tmp_path, CPU, lambda line: None))
    curves = outcome.document["results"]
    assert [cell["arm"] for cell in curves["text"]["cells"]] == ["dense", "low magnitude", "high magnitude", "random"]
    sparsities = [round(cell["sparsity"], 3) for cell in curves["released"]["cells"]]
    assert sparsities == pytest.approx([0.0, 0.522, 0.478, 0.522], abs=2e-3)
    for name, held in (("text", True), ("released", False)):
        for cell in curves[name]["cells"][1:]:
            folder = tmp_path / "trainings" / cell["trainings"][0]
            weights, masks = load_tensors(folder / "weights.safetensors"), Masks.load(folder / "mask.safetensors")
            regrown = sum(int(weights[weight][~mask].count_nonzero()) for weight, mask in masks.items())
            assert (regrown == 0) == held


def test_high_magnitude_prunes_the_largest_as_text_and_a_sample_led_by_the_smallest_as_released(
    tmp_path: Path,
) -> None:
    outcome = run_study(PaperB(), TINY, StudyRunner(tmp_path, CPU, lambda line: None))
    for name, sign in (("text", 1), ("released", -1)):
        cells = outcome.document["results"][name]["cells"]
        dense, low, high = (tmp_path / "trainings" / cell["trainings"][0] for cell in cells[:3])
        weight = "lxmert.encoder.layer.0.attention.self.query.weight"
        sizes = load_tensors(dense / "weights.safetensors")[weight].abs()
        small, mask = (Masks.load(folder / "mask.safetensors")[weight] for folder in (low, high))
        assert sign * (sizes[~mask].mean() - sizes[mask].mean()) > 0
        assert name == "text" or bool((mask & ~small).any()), "the smallest alone: the low mask again"


def released_masks(label: int) -> tuple[Masks, Masks]:
    """Read the low mask of a label, and the "high" mask that the authors' code makes of it."""
    folder = Path(__file__).parents[1] / "fixtures" / "pruning" / "paper_b_low"
    tensors = load_tensors(folder / "case.safetensors")
    layout = json.loads((folder / "meta.json").read_text())["layout_mask_name_shape_offset"]
    flat = [tensors[f"low_{label}/mask_pruned1"], tensors[f"high_{label}/mask_pruned1_seed0"]]
    low, high = (
        Masks({name: (one[at : at + math.prod(shape)] == 0).view(shape) for name, shape, at in layout}) for one in flat
    )
    return low, high


@pytest.mark.parametrize("label", [10, 30])
def test_the_released_high_mask_takes_what_the_authors_code_takes(label: int) -> None:
    """Which weights are drawn is chance; how many, and from which of the two sets, is not."""
    low, theirs = released_masks(label)
    ours = labelled_high(low, seed=0)
    for name, kept in low.items():
        drawn = [(int((~high[name]).sum()), int((~high[name] & ~kept).sum())) for high in (theirs, ours)]
        assert drawn[0] == drawn[1], name


def test_a_released_high_mask_is_a_sample_of_the_small_weights_where_low_keeps_few() -> None:
    low = Masks({"w": torch.arange(1000).view(10, 100) >= 900})
    first, again, other = (labelled_high(low, seed)["w"] for seed in (0, 0, 1))
    assert int((~first).sum()) == 100
    assert not (~first & low["w"]).any()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("choices", [Choices(family="vilt"), Choices(tasks=("vqa", "gqa"))])
def test_other_cells_are_refused(choices: Choices) -> None:
    with pytest.raises(VlcompressError, match="lxmert on vqa"):
        PaperB().cells(choices)

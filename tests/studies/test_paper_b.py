"""The two readings of paper b: which weights go, how many, and whether they stay away."""

from pathlib import Path

import pytest

from vlcompress.artefacts import load_tensors
from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.pruning.mask import Masks
from vlcompress.studies.base import Choices, Lab
from vlcompress.studies.paper_b import RELEASED, PaperB
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


def test_both_readings_run_and_only_one_holds_its_masks(tmp_path: Path) -> None:
    outcome = run_study(PaperB(), TINY, Lab(tmp_path, CPU, lambda line: None))
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


def test_high_magnitude_prunes_the_largest_as_text_and_the_smallest_as_released(tmp_path: Path) -> None:
    outcome = run_study(PaperB(), TINY, Lab(tmp_path, CPU, lambda line: None))
    for name, sign in (("text", 1), ("released", -1)):
        cells = outcome.document["results"][name]["cells"]
        dense = load_tensors(tmp_path / "trainings" / cells[0]["trainings"][0] / "weights.safetensors")
        masks = Masks.load(tmp_path / "trainings" / cells[2]["trainings"][0] / "mask.safetensors")
        weight = "lxmert.encoder.layer.0.attention.self.query.weight"
        pruned, kept = dense[weight][~masks[weight]].abs(), dense[weight][masks[weight]].abs()
        assert sign * (pruned.mean() - kept.mean()) > 0


@pytest.mark.parametrize("choices", [Choices(family="vilt"), Choices(tasks=("vqa", "gqa"))])
def test_other_cells_are_refused(choices: Choices) -> None:
    with pytest.raises(VlcompressError, match="lxmert on vqa"):
        PaperB().cells(choices)

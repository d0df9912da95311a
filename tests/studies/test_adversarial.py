"""Plain and adversarial tickets side by side; plain trainings are those that other studies have done."""

from pathlib import Path

import pytest

from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks
from vlcompress.studies.adversarial import AdversarialStudy, strength_of
from vlcompress.studies.base import Choices, StudyRunner
from vlcompress.studies.run import run_study
from vlcompress.studies.tickets import ticket_recipe
from vlcompress.tickets.spec import Trial

TINY = Choices(size="tiny", source="scenes:tiny", seeds=(0,), levels=(0.1,))


def runner(home: Path) -> StudyRunner:
    return StudyRunner(home, CPU, [].append)


def test_arms_share_masks_and_plain_trainings(tmp_path: Path) -> None:
    document = run_study(AdversarialStudy(), TINY, runner(tmp_path)).document
    assert document["failed"] == {}
    cells = {cell["arm"]: cell for cell in document["results"]["vqa"]["cells"]}
    assert list(cells) == [
        "dense",
        "dense, adversarial",
        "ticket",
        "ticket, trained adversarially",
        "adversarial ticket",
        "pre-training ticket",
        "pre-training ticket, trained adversarially",
    ]
    masks = {
        arm: Masks.load(tmp_path / "trainings" / cell["trainings"][0] / "mask.safetensors").sha256()
        for arm, cell in cells.items()
        if not arm.startswith("dense")
    }
    assert masks["ticket"] == masks["ticket, trained adversarially"]
    assert len(set(masks.values())) == 3  # found plainly, adversarially, by pre-training
    assert all(0 <= cell["attacked"]["10"][0] <= 1 for cell in cells.values())
    assert cells["ticket"]["trainings"] != cells["ticket, trained adversarially"]["trainings"]
    trainings = set((tmp_path / "trainings").glob("*/training.json"))
    runner(tmp_path).bench(ticket_recipe(TINY, "vqa", TINY.levels)).train(Trial(0), "of any other study")
    assert set((tmp_path / "trainings").glob("*/training.json")) == trainings
    (cell,) = AdversarialStudy().cells(TINY)
    assert cell.trainings == len(trainings) == len(cells) + 2  # and the two of pre-training


def test_strengths_are_the_published_ones() -> None:
    assert strength_of("uniter", "vqa") == strength_of("lxmert", "nlvr2") == "text:0.001"
    assert strength_of("lxmert", "gqa") == "text:0.01"
    assert strength_of("uniter", "vcr") == "text+image:0.01"


def test_a_family_that_it_is_not_defined_for_fails_with_the_reason(tmp_path: Path) -> None:
    vilt = Choices(family="vilt", size="tiny", source="scenes:tiny", seeds=(0,), levels=(0.1,))
    with pytest.raises(VlcompressError, match="adversarial training of vilt on this task is not defined"):
        run_study(AdversarialStudy(), vilt, runner(tmp_path))

"""One ticket for every task: found by pre-training once, tried on each task, and as a source of transfers."""

from pathlib import Path

import pytest

from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks
from vlcompress.studies.base import Choices, StudyRunner
from vlcompress.studies.pretraining_ticket import SMALL_STEPS, PretrainingTicket, source_recipe
from vlcompress.studies.run import run_study
from vlcompress.studies.transfer import Transfer

TINY = Choices(size="tiny", source="scenes:tiny", seeds=(0, 1), levels=(0.1,))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretraining-ticket")


def runner(home: Path) -> StudyRunner:
    return StudyRunner(home, CPU, [].append)


def test_the_mask_of_pre_training_is_trained_on_the_task_under_every_seed(home: Path) -> None:
    document = run_study(PretrainingTicket(), TINY, runner(home)).document
    assert document["failed"] == {}
    cells = {cell["arm"]: cell for cell in document["results"]["vqa"]["cells"]}
    assert list(cells) == ["dense", "ticket", "pretraining", "random"]
    masks = {
        arm: [Masks.load(home / "trainings" / name / "mask.safetensors").sha256() for name in cells[arm]["trainings"]]
        for arm in ("ticket", "pretraining")
    }
    assert len(set(masks["pretraining"])) == 1  # one ticket for all
    assert len(set(masks["ticket"])) == 2  # each seed's own
    assert not set(masks["pretraining"]) & set(masks["ticket"])
    dense, ticket = (sum(cells[arm]["scores"]) for arm in ("dense", "pretraining"))
    (row,) = (row for row in document["tables"][0]["rows"] if row[1] == "found by pre-training")
    assert float(row[-1]) == pytest.approx(100 * (dense - ticket) / dense, abs=5e-3)


def test_pre_training_is_a_source_and_no_target(home: Path) -> None:
    document = run_study(Transfer(), Choices(**{**vars(TINY), "tasks": ("vqa", "pretraining")}), runner(home)).document
    assert document["failed"] == {}
    assert list(document["results"]) == ["vqa to vqa", "pretraining to vqa"]
    with pytest.raises(VlcompressError, match="'pretraining' is where the ticket comes from"):
        PretrainingTicket().cells(Choices(tasks=("pretraining",)))


def test_a_round_takes_a_tenth_of_the_pre_training() -> None:
    assert source_recipe(Choices(), "pretraining", (0.5,)).training.steps == SMALL_STEPS == 4000 // 10
    assert source_recipe(Choices(family="uniter", size="base"), "pretraining", (0.5,)).training.steps == 200_000 // 10

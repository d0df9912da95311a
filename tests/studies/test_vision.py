"""The study of paper c at the smallest size: every cell runs, what is shared is trained once, the words fit."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from tests.studies.made import arm, curve, dense
from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.pruning.mask import Masks
from vlcompress.results import Outcome
from vlcompress.studies import vision
from vlcompress.studies.base import Choices, StudyCell, StudyRunner
from vlcompress.studies.curves import Curve
from vlcompress.studies.run import dry, run_study
from vlcompress.studies.vision import SCHEDULE, Vision, plan_of, weights_of
from vlcompress.studies.vision_report import KINDS, findings
from vlcompress.tickets.engine import Local

T = TypeVar("T")
CELLS = (
    "supervised ticket",
    "simclr ticket",
    "moco ticket",
    "simclr on counts",
    "moco on segmentation",
    "early start on counts",
    "changed masks, early start",
    "similarity",
)
TINY = Choices(size="tiny", seeds=(0,), levels=(0.2,), tasks=("counts",))


class Some(Vision):
    """One cell of each sort: all of them take a test too long."""

    def cells(self, choices: Choices) -> list[StudyCell]:
        return [cell for cell in super().cells(choices) if cell.name in CELLS]


def runner(home: Path, said: list[str] | None = None) -> StudyRunner:
    return StudyRunner(home, CPU, [].append if said is None else said.append)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the study was run once."""
    return tmp_path_factory.mktemp("vision")


@pytest.fixture(scope="module")
def document(home: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlcompress.tickets.verdict.RESAMPLES", 20)
        return run_study(Some(), TINY, runner(home)).document


def test_every_cell_runs_and_the_count_holds(home: Path, document: dict[str, Any]) -> None:
    # After 4 steps none of 16 pictures is told apart from 41 other classes: that cell fails, and sinks nothing else.
    assert document["failed"].keys() <= {"supervised ticket"}
    assert len(document["results"]) + len(document["failed"]) == len(CELLS)
    trained = len(list((home / "trainings").glob("*/training.json")))
    assert trained == int(dry(Some(), TINY, runner(home))[0]["rows"][-1][2])


def test_a_pre_training_ticket_is_found_once_and_trained_on_each_task(home: Path, document: dict[str, Any]) -> None:
    own = document["results"]["simclr ticket"]["cells"]
    assert [(cell["arm"], round(cell["sparsity"], 2)) for cell in own] == [
        ("dense", 0.0),
        ("pre-training ticket", 0.2),
    ]
    masks = Masks.load(home / "trainings" / own[1]["trainings"][0] / "mask.safetensors")
    cells = document["results"]["simclr on counts"]["cells"]
    assert [cell["arm"] for cell in cells] == ["dense", "task ticket", "pre-training ticket"]
    folder = home / "trainings" / cells[2]["trainings"][0]
    assert Masks.load(folder / "mask.safetensors").sha256() == masks.sha256()
    assert not (folder / "weights.safetensors").exists()  # its scores are all that the study needs


def test_the_ticket_is_trained_on_whole_scenes(document: dict[str, Any]) -> None:
    curve = document["results"]["moco on segmentation"]
    assert (curve["metric"], curve["examples"]) == ("mIoU", 8)
    assert [cell["arm"] for cell in curve["cells"]] == ["dense", "pre-training ticket", "random"]
    assert len({cell["sparsity"] for cell in curve["cells"][1:]}) == 1
    assert curve["cells"][1]["verdict"]["examples"] <= 7  # classes: the metric is a mean over them
    table = next(table for table in document["tables"] if table["title"].startswith("Highest matching"))
    assert "pre-training ticket on segmentation" in [row[0] for row in table["rows"]]
    assert "task ticket on segmentation" not in [row[0] for row in table["rows"]]


def test_changed_masks_stand_beside_the_ticket(document: dict[str, Any]) -> None:
    cells = document["results"]["changed masks, early start"]["cells"]
    assert {cell["arm"] for cell in cells} == {"dense", "task ticket", "random", "perturbed", "complement"}
    last = {cell["arm"]: cell["sparsity"] for cell in cells}
    assert last["complement"] == pytest.approx(1 - last["task ticket"])
    assert last["random"] == last["task ticket"]


def test_masks_are_compared_two_by_two_and_all_together(document: dict[str, Any]) -> None:
    groups = document["results"]["similarity"]["groups"]
    assert [group["name"] for group in groups][-1] == "supervised and simclr and moco"
    assert len(groups) == 4
    for group in groups:
        for row in group["rows"]:
            assert 0 < row["chance"] <= row["chance_by_layer"] < 1
    assert all(0 <= share < 1 for share in document["results"]["moco ticket"]["zero_kernels"])


class SideBySide(Local):
    """Knows whether it is at work on jobs that may run side by side."""

    working = False

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        SideBySide.working = True
        try:
            return super().together(jobs)
        finally:
            SideBySide.working = False


def test_seeds_are_trained_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are trained as they are taken, so they are taken where the engine has several jobs at once."""

    bench = SimpleNamespace(blind=None)

    def column(runner: StudyRunner, seed: int) -> tuple[SimpleNamespace, Iterator[tuple[int, bool]]]:
        return bench, ((seed, SideBySide.working) for _ in range(2))

    monkeypatch.setattr(vision, "judged", lambda columns, blind: list(columns))
    monkeypatch.setattr(vision, "curve_of", lambda bench, cells: (bench, cells))
    own = StudyRunner(tmp_path, engine=SideBySide())
    plan = plan_of(Choices(size="tiny", seeds=(3, 5), levels=(0.2,)))
    found: Any = vision._curve(plan, column, own)  # type: ignore[arg-type]
    assert found == (bench, [[(3, True)] * 2, [(5, True)] * 2])


def test_own_weights_are_taken_in_place_of_pre_training(home: Path, tmp_path: Path) -> None:
    plan = plan_of(TINY)
    made = Path(weights_of(runner(home), plan, "supervised"))
    own = tmp_path / "pretrained" / "resnet-tiny-supervised.safetensors"
    own.parent.mkdir()
    own.write_bytes(made.read_bytes())
    assert weights_of(runner(tmp_path), plan, "supervised") == str(own)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(family="vilt"), "about resnet"),
        (Choices(tasks=("shape",)), "did you mean 'shapes'"),
    ],
)
def test_what_there_is_not_is_refused(choices: Choices, message: str) -> None:
    with pytest.raises(VlcompressError, match=message):
        Vision().cells(choices)


def test_there_is_a_cell_for_each_use_of_each_pre_training() -> None:
    names = [cell.name for cell in Vision().cells(Choices())]
    assert len(names) == len(set(names)) == 3 + 3 * 2 + 3 * 2 + 3 + 3 + 1
    assert {"moco on detection", "supervised on colours", "tuned start on shapes"} <= set(names)


def test_levels_are_rounds_of_a_fifth_and_a_folder_is_a_task() -> None:
    assert round(100 * SCHEDULE.level(plan_of(Choices(levels=(0.6723,))).rounds), 2) == 67.23
    assert plan_of(Choices(levels=(0.982,))).rounds == 18
    assert plan_of(Choices(source="some/cifar10")).tasks == {"cifar10": "some/cifar10"}
    assert set(KINDS) == {"supervised", "simclr", "moco"}


def made(name: str, *outcomes: Outcome) -> Curve:
    tickets = (
        arm(name, 0.8, sparsity=0.2 * number, number=number, outcome=outcome)
        for number, outcome in enumerate(outcomes, start=1)
    )
    return Curve(**curve(dense(0.9), *tickets))


def test_a_universal_ticket_is_one_level_that_matches_everywhere() -> None:
    name = "pre-training ticket"
    results = {
        "moco ticket": made(name, "pass", "pass", "fail"),
        "moco on a": made(name, "pass", "fail", "pass"),
        "moco on b": made(name, "pass within noise", "pass", "fail"),
    }
    said = list(findings(results))
    assert said[0] == "moco: on its own task the ticket matches up to 40.00 %."
    assert said[1] == "moco: one ticket matches on all of a, b up to 20.00 %."
    results["moco on b"] = made(name, "fail", "fail", "pass")
    assert "up to 60.00 %" in list(findings(results))[1]
    results["moco on b"] = made(name, "fail", "pass", "fail")
    assert list(findings(results))[1].endswith("at no level.")

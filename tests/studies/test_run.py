"""A study from cells to page: what is shared is not trained twice, a failure does not sink the rest."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.studies.made import arm, curve, dense
from vlcompress.devices import CPU
from vlcompress.errors import VlcompressError
from vlcompress.recipe import default_recipe
from vlcompress.results import Outcome
from vlcompress.studies.base import Choices, Json, StudyCell, StudyReport, StudyRunner, Table
from vlcompress.studies.curves import Curve
from vlcompress.studies.page import page, read_report, report_document
from vlcompress.studies.registry import STUDIES, study_named
from vlcompress.studies.run import command_of, dry, folder_name, run_study
from vlcompress.studies.tickets import findings
from vlcompress.studies.transfer import TransferResult

TINY = Choices(size="tiny", source="scenes:tiny", seeds=(0,), levels=(0.2,))


FOLDER = "studies/tickets-tiny-scenes-tiny-seeds-0-levels-20"


def runner(home: Path) -> tuple[StudyRunner, list[str]]:
    said: list[str] = []
    return StudyRunner(home, CPU, said.append), said


def trainings(home: Path) -> int:
    """Count what was trained; what was only pruned keeps no steps."""
    return len(list((home / "trainings").glob("*/log.jsonl")))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the study `tickets` was run once, at the smallest size."""
    home = tmp_path_factory.mktemp("studies")
    assert run_study(study_named("tickets"), TINY, runner(home)[0]).folder == home / FOLDER
    return home


def test_it_writes_what_it_found(home: Path) -> None:
    document = json.loads((home / FOLDER / "study.json").read_text())
    cells = document["results"]["vqa"]["cells"]
    assert [(cell["arm"], round(cell["sparsity"], 1)) for cell in cells] == [
        ("dense", 0.0),
        ("ticket", 0.1),
        ("ticket", 0.2),
        ("random", 0.2),
        ("shuffle", 0.2),
        ("reinit", 0.2),
        ("language", 0.2),
        ("oneshot", 0.2),
        ("magnitude", 0.2),
        ("wanda", 0.2),
        ("calibrated", 0.2),
    ]
    assert document["failed"] == {}
    assert document["environment"]["cores"] > 0
    assert document["trainings"]["count"] == document["trainings"]["timed"] == 11
    assert document["trainings"]["seconds"] > 0
    page = (home / FOLDER / "study.html").read_text()
    assert "Published, on other data" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_its_page_is_made_of_its_document(home: Path) -> None:
    document = json.loads((home / FOLDER / "study.json").read_text())
    assert page(document) == (home / FOLDER / "study.html").read_text()
    again = json.loads(json.dumps(report_document(read_report(document))))
    assert again == {name: document[name] for name in again}


def test_every_row_says_seeds_score_verdict_and_how_sure_it_is(home: Path) -> None:
    table = json.loads((home / FOLDER / "study.json").read_text())["tables"][1]
    assert table["header"][2:] == [
        *("seeds", "score", "of dense %", "strict", "matching", "relaxed"),
        *("margin to 99 % (95 % interval)", "p (relaxed)", "p (Holm)"),
    ]
    for row in table["rows"][1:]:
        assert row[2] == "1"
        assert re.fullmatch(r"[-+]\d+\.\d\d \([-+]\d+\.\d\d to [-+]\d+\.\d\d\)", row[8])
        assert 0 < float(row[9]) <= 1
        assert row[7] == "no verdict" or float(row[9]) <= float(row[10]) <= 1


def test_its_folder_and_command_say_what_is_not_the_default() -> None:
    tickets = study_named("tickets")
    assert folder_name(tickets, Choices()) == "tickets"
    assert command_of(tickets, Choices()) == "vlcompress study tickets"
    chosen = Choices(family="uniter", tasks=("gqa", "snli_ve"), seeds=(0, 4), levels=(0.5, 0.125))
    assert folder_name(tickets, chosen) == "tickets-uniter-gqa-snli_ve-seeds-0-4-levels-50-12.5"
    assert command_of(tickets, chosen) == (
        "vlcompress study tickets --model uniter --task gqa --task snli_ve --seeds 0,4 --levels 0.5,0.125"
    )
    assert folder_name(tickets, Choices(source="/some/Data")) == "tickets-some-data"


def test_the_dry_run_counts_what_is_trained(home: Path) -> None:
    document, text = dry(study_named("tickets"), TINY, runner(home)[0])
    assert int(document["rows"][-1][2]) == trainings(home) == 8
    assert document["seconds_each"].keys() == {"vqa"}
    assert document["seconds_each"]["vqa"] > 0
    assert "trainings at most" in text


def test_the_dry_run_writes_nothing_and_refuses_what_a_run_refuses(tmp_path: Path) -> None:
    home, choices = tmp_path / "home", Choices(size="tiny", source="scenes:tiny", tasks=("vqa", "gqa"), seeds=(0,))
    document, _ = dry(study_named("granularity"), choices, runner(home)[0])
    assert "vqa block:128x16" not in document["seconds_each"]
    assert document["failed"]["gqa block:128x16"].startswith("pattern 'block:128x16' does not divide weight")
    assert document["seconds_each"]["gqa block:16x16"] > 0
    with pytest.raises(VlcompressError, match="unknown criterion 'movment': allowed are fisher, gradient,"):
        dry(study_named("tickets"), dataclasses.replace(TINY, criterion="movment"), runner(home)[0])
    assert not home.exists()


def test_the_same_study_trains_nothing_again_and_others_share(home: Path) -> None:
    before = trainings(home)
    run_study(study_named("tickets"), TINY, runner(home)[0])
    run_study(study_named("overlap"), TINY, runner(home)[0])
    assert trainings(home) == before


class Broken:
    """One cell that works and one that cannot."""

    name = "broken"
    title = "for the test"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        recipe = default_recipe("lxmert", "vqa", "tiny")

        def fail(runner: StudyRunner) -> Json:
            raise VlcompressError("no such thing: give another")

        return [StudyCell("good", recipe, 0, lambda runner: {"score": 1}), StudyCell("bad", recipe, 0, fail)]

    def report(self, results: Mapping[str, Json]) -> StudyReport:
        return StudyReport(("fine",), (Table("t", ("a", "b"), (("x", str(results["good"]["score"])),)),))


def test_a_failed_cell_is_shown_with_its_reason(tmp_path: Path) -> None:
    outcome = run_study(Broken(), TINY, runner(tmp_path)[0])
    assert outcome.document["failed"] == {"bad": "no such thing: give another"}
    assert "bad: no such thing: give another" in outcome.text
    assert "Cells that failed" in (outcome.folder / "study.html").read_text()


def test_an_unknown_study_names_those_that_exist() -> None:
    with pytest.raises(VlcompressError, match="tickets"):
        study_named("ticket")
    assert set(STUDIES) >= {"tickets", "transfer", "rewind", "overlap", "families"}


def test_a_transfer_needs_two_tasks(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="second task"):
        run_study(study_named("transfer"), TINY, runner(tmp_path)[0])


def test_a_transfer_shows_the_drop_of_every_source_and_target() -> None:
    scores = {("vqa", "vqa"): 0.6, ("vqa", "gqa"): 0.45, ("gqa", "gqa"): 0.5}
    results = {
        f"{source} to {target}": TransferResult(
            source, target, 0.7, (dense({"vqa": 0.6, "gqa": 0.5}[target]), arm("ticket", score, sparsity=0.7))
        )
        for (source, target), score in scores.items()
    }
    report = study_named("transfer").report(results)
    assert report.tables[1].rows == (("vqa", "0.00", "10.00", "5.00"), ("gqa", "failed", "0.00", "0.00"))
    (chart,) = report.charts
    assert chart.x_names == ("vqa", "gqa")
    assert [[round(point.y, 6) for point in series.points] for series in chart.series] == [[100, 90], [100]]
    assert "the best ticket is its own" in report.findings[1]


def made(ticket: float, random: float, outcome: Outcome) -> Curve:
    return Curve(**curve(dense(0.6), arm("ticket", ticket, outcome=outcome), arm("random", random, outcome=outcome)))


def test_findings_say_what_does_not_hold() -> None:
    said = findings("vqa", made(0.5, 0.55, "pass"))
    assert any("does not beat a random mask (-5.00 points)" in sentence for sentence in said)
    assert findings("vqa", made(0.5, 0.55, "fail")) == [
        "vqa: no level passes, not even within noise: there is no relaxed ticket here."
    ]


def test_the_sparsest_passing_level_is_found() -> None:
    assert made(0.59, 0.5, "pass within noise").sparsest("relaxed") == (0.5, "pass within noise")
    assert made(0.59, 0.5, "fail").sparsest("relaxed") is None
    assert made(0.59, 0.5, "pass").at("ticket", 0.7) is None


def test_levels_off_the_tenths_count_the_rounds_that_run() -> None:
    cell, *_ = study_named("rewind").cells(Choices(levels=(0.45,), seeds=(0,)))
    assert cell.trainings == 1 + 5  # dense, and 10, 20, 30, 40, 45 %

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from vlcompress.cli.main import main
from vlcompress.tickets.run import Run


def test_report_takes_the_newest_run_of_the_home(measured: Run) -> None:
    done = CliRunner().invoke(main, ["report", "--home", str(measured.folder.parent)])
    assert done.exit_code == 0
    assert "1.40×" in done.stdout
    assert (measured.folder / "report.html").is_file()


def test_report_gives_one_document_on_stdout(measured: Run) -> None:
    done = CliRunner().invoke(main, ["report", str(measured.folder), "--json"])
    assert json.loads(done.stdout)["report"] == str(measured.folder / "report.html")


def test_report_of_no_run_is_told_in_one_line(measured: Run) -> None:
    done = CliRunner().invoke(main, ["report", str(measured.folder / "nothing")])
    assert done.exit_code == 2
    assert "no run at" in done.stderr
    assert len(done.stderr.splitlines()) == 1


STUDY = {
    "study": "tickets",
    "title": "tickets by task",
    "command": "vlcompress study tickets --task gqa",
    "findings": ["gqa: the sparsest relaxed ticket is at 70 % (pass)."],
    "failed": {"vqa": "no <such> thing"},
    "tables": [{"title": "gqa", "header": ["arm", "score"], "rows": [["ticket", "58.10"]], "text_columns": [0]}],
    "charts": [],
    "published": ["a1"],
    "claims": [],
    "summary": "",
}


def write_study(home: Path, name: str, document: dict[str, Any]) -> None:
    (home / "studies" / name).mkdir(parents=True)
    (home / "studies" / name / "study.json").write_text(json.dumps(document))


def test_studies_of_the_home_have_a_section_with_the_published_numbers_apart(measured: Run) -> None:
    write_study(measured.home, "tickets-gqa", STUDY)
    write_study(measured.home, "tickets", {"study": "tickets", "findings": []})
    assert CliRunner().invoke(main, ["report", str(measured.folder)]).exit_code == 0
    page = (measured.folder / "report.html").read_text()
    ours, published = page.split("Published, on other data")
    assert "<h3>tickets-gqa</h3>" in ours
    assert "the sparsest relaxed ticket is at 70 % (pass)" in ours
    assert '<td class="number">58.10</td>' in ours
    assert "vqa: no &lt;such&gt; thing" in ours
    assert "an earlier version wrote this" in ours  # of the other study
    assert "Table 1" in published
    assert "vlcompress study tickets --task gqa" in published


def test_studies_have_a_page_of_their_own(tmp_path: Path) -> None:
    failed = CliRunner().invoke(main, ["report", "--studies", "--home", str(tmp_path)])
    assert failed.exit_code == 2
    assert "vlcompress study" in failed.stderr
    write_study(tmp_path, "tickets-gqa", STUDY)
    done = CliRunner().invoke(main, ["report", "--studies", "--home", str(tmp_path), "--json"])
    page = Path(json.loads(done.stdout)["report"]).read_text()
    assert page.startswith("<!doctype html>")
    assert "58.10" in page


def test_plots_are_written_as_files_of_their_own(measured: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(measured.folder), "--plots", str(tmp_path / "plots"), "--json"])
    files = {Path(path).name: Path(path).read_bytes() for path in json.loads(done.stdout)["plots"]}
    names = ("accuracy", "rounds", "latency-against-sparsity-at-batch-1", "layers")
    assert set(files) == {f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")}
    assert all(data.startswith(b"\x89PNG" if name.endswith("png") else b"%PDF") for name, data in files.items())


def test_a_format_without_plots_is_said_to_have_no_effect(measured: Run, tmp_path: Path) -> None:
    chosen = ["--format", "svg"]
    assert "no effect" in CliRunner().invoke(main, ["report", str(measured.folder), *chosen]).stderr
    done = CliRunner().invoke(main, ["report", str(measured.folder), *chosen, "--plots", str(tmp_path)])
    assert "no effect" not in done.stderr
    assert {path.suffix for path in tmp_path.glob("acc*")} == {".svg"}


def test_the_plots_of_studies_are_written_too(tmp_path: Path) -> None:
    series = [{"name": "ticket", "points": [{"x": 10, "y": 60, "low": None, "high": None}], "line": True}]
    labels = {"title": "gqa", "x_label": "x", "y_label": "y", "x_names": [], "references": [], "y_from_zero": False}
    write_study(tmp_path, "tickets-gqa", {**STUDY, "charts": [{**labels, "series": series}]})
    asked = ["report", "--studies", "--home", str(tmp_path), "--plots", str(tmp_path), "--format", "png"]
    assert CliRunner().invoke(main, asked).exit_code == 0
    assert (tmp_path / "tickets-gqa-1.png").is_file()

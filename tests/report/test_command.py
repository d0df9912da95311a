import json

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
    assert "not a finished run" in done.stderr
    assert len(done.stderr.splitlines()) == 1

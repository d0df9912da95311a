"""vlcompress data: what a user sees."""

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from vlcompress.cli.main import main

DATA = Path(__file__).parents[1] / "fixtures/data"


def test_check_prints_samples_or_one_document() -> None:
    shown = CliRunner().invoke(main, ["data", "check", str(DATA / "uniter")])
    assert shown.exit_code == 0
    assert "142000: Is the woman standing near the blue bike? ['yes' 1]" in shown.stdout
    document = json.loads(CliRunner().invoke(main, ["data", "check", str(DATA / "uniter"), "--json"]).stdout)
    assert {one["split"] for one in document["splits"] if one["task"] == "vqa"} == {"train", "devval", "test"}


def test_check_fails_where_a_split_cannot_be_read(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "raw/snli_ve", tmp_path / "raw/snli_ve")).parent
    (folder / "snli_ve/snli_ve_dev.jsonl").write_text("{")
    shown = CliRunner().invoke(main, ["data", "check", str(folder)])
    assert shown.exit_code == 2
    assert "snli_ve test (raw)" in shown.stdout
    assert shown.stderr.startswith("error: 1 of 3 splits cannot be read: ")


def test_import_writes_a_store_that_check_reads(tmp_path: Path) -> None:
    arguments = ["data", "import", str(DATA / "uniter"), str(tmp_path / "store"), "--task", "vqa", "--split", "devval"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("imported vqa (devval 3) from uniter into ")
    assert CliRunner().invoke(main, ["data", "check", str(tmp_path / "store")]).exit_code == 0


def test_import_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, ["data", "import", str(DATA / "uniter"), str(tmp_path / "store"), "--task", "vqa"])
    assert shown.exit_code == 2
    assert shown.stderr.count("\n") == 1
    assert "vqa test: 3 of 3 examples have no region features" in shown.stderr
    assert not (tmp_path / "store").exists()

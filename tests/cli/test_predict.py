"""`vlcompress predict` and `vlcompress tasks` as a user runs them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vlcompress.cli.main import main
from vlcompress.data.scenes.benchmarks import make_benchmark


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LXMERT on NLVR2."""
    folder = tmp_path_factory.mktemp("predict")
    data = make_benchmark(folder / "data", "nlvr2", size="tiny")
    tiny = ["--model", "lxmert", "--task", "nlvr2", "--size", "tiny", "--control", "none", "--steps", "3"]
    code, out, err = run("prune", *tiny, "--data", str(data), "--home", str(folder / "runs"))
    assert code == 0, err
    assert "beside it, dense → ticket: consistency" in out
    return folder / "runs"


def test_writes_the_benchmarks_file_and_says_the_score(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "test1.csv"
    code, said, err = run("predict", "--split", "test1", "--out", str(out), "--home", str(home), "--json")
    assert code == 0, err
    document = json.loads(said)
    lines = out.read_text().splitlines()
    assert len(lines) == document["examples"]
    assert all(line.startswith("test1-") and line.split(",")[1] in ("True", "False") for line in lines)
    assert set(document["figures"]) == {"consistency"}


@pytest.mark.parametrize(
    ("split", "name", "text"),
    [("test1", "test1.json", "does not end in .csv"), ("test9", "x.csv", "has no split 'test9'")],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    home: Path, tmp_path: Path, split: str, name: str, text: str
) -> None:
    code, _, err = run("predict", "--split", split, "--out", str(tmp_path / name), "--home", str(home))
    assert code == 2
    assert text in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert not list(tmp_path.iterdir())


def test_the_table_of_tasks() -> None:
    code, text, _ = run("tasks")
    assert code == 0
    assert "RefCOCO+" in text
    code, markdown, _ = run("tasks", "--markdown")
    assert markdown.startswith("| task | lxmert | uniter | vilt | resnet | encoder | metric |")

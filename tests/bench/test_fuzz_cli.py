"""The command line under two hundred random mistakes; the script itself does two thousand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import fuzz_cli
from bench.fuzz_cli import Outcome, damaged, draw, half_written


@pytest.mark.parametrize("tries", [60, pytest.param(200, marks=pytest.mark.nightly)])
def test_tries_end_as_they_should(tries: int) -> None:
    command = [sys.executable, "-m", "bench.fuzz_cli", "--tries", str(tries), "--seed", "7", "--patience", "0.2"]
    done = subprocess.run(
        command, cwd=Path(fuzz_cli.__file__).parents[1], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("outcome", "wrong"),
    [
        (Outcome(0, ""), ""),
        (Outcome(2, "making data\nerror: no\n"), ""),
        (Outcome(3, "error: it differs\n"), ""),
        (Outcome(130, "error: interrupted\n"), ""),
        (Outcome(1, ""), "exit code 1"),
        (Outcome(-9, ""), "exit code -9"),
        (Outcome(130, "Exception ignored in: x\nTraceback (most recent call last):\nerror: interrupted\n"), ""),
        (Outcome(130, "Traceback (most recent call last):\n"), "a traceback"),
        (Outcome(2, "Traceback (most recent call last):\nerror: no\n"), "a traceback"),
        (Outcome(2, "no\n"), "0 lines of error"),
        (Outcome(2, "error: no\nerror: twice\n"), "2 lines of error"),
        (Outcome(2, "error: no\nand more\n"), "1 lines of error"),
        (Outcome(0, "error: no\n"), "an error, and exit code 0"),
        (Outcome(2, "error: no\n", ["runs/.run.json.x1"]), "left half-written: runs/.run.json.x1"),
    ],
)
def test_what_is_wrong_is_seen(outcome: Outcome, wrong: str) -> None:
    assert outcome.wrong() == wrong


def test_a_try_is_drawn_from_its_number_alone(tmp_path: Path) -> None:
    (tmp_path / "runs" / "lxmert-vqa").mkdir(parents=True)
    (tmp_path / "odd").mkdir()
    tries = [draw(number, 0, tmp_path) for number in range(1000)]
    assert tries == [draw(number, 0, tmp_path) for number in range(1000)]
    assert {one.arguments[0] for one in tries if one.arguments} >= {"prune", "compile", "export", "serve", "study"}
    assert {one.place for one in tries} == {"", *fuzz_cli.PLACES}


def test_damage_leaves_the_file_that_it_is_a_link_of(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole.json", tmp_path / "run"
    whole.write_text('{"a": 1}')
    for number in range(20):
        run.mkdir()
        os.link(whole, run / "run.json")
        damaged(run, number)
        assert whole.read_text() == '{"a": 1}'
        assert not (run / "run.json").exists() or (run / "run.json").read_bytes() != whole.read_bytes()
        (run / "run.json").unlink(missing_ok=True)
        run.rmdir()


def test_files_under_a_temporary_name_are_half_written(tmp_path: Path) -> None:
    for name in (".run.json.abc", ".hidden", "run.json"):
        (tmp_path / name).write_text("")
    assert [path.name for path in half_written(tmp_path)] == [".run.json.abc"]

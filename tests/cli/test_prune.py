"""`vlcompress prune` as a user runs it: exit codes, one-line errors, and death at any moment."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from vlcompress.cli.main import main
from vlcompress.tickets.ticket import load_ticket
from vlcompress.tickets.workbench import TIME

TINY = ["--size", "tiny", "--control", "none"]


def command(tiny_scenes: Path, home: Path, *more: str) -> list[str]:
    return ["prune", *TINY, "--data", str(tiny_scenes), "--home", str(home), *more]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def tree(folder: Path) -> dict[str, str]:
    """Every file of a folder with its hash, but for how long trainings took."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != TIME
    }


def test_prints_a_table_with_a_verdict_and_leaves_a_run(tiny_scenes: Path, tmp_path: Path) -> None:
    code, out, err = run(*command(tiny_scenes, tmp_path, "--steps", "3"))
    assert code == 0, err
    assert "relaxed (99 %)" in out
    assert "a single seed" in out
    assert "seed 0 ticket round 2/2 at 50.0 %" in err


def test_json_is_one_document_on_stdout(tiny_scenes: Path, tmp_path: Path) -> None:
    code, out, _ = run(*command(tiny_scenes, tmp_path, "--steps", "3", "--json"))
    assert code == 0
    assert [cell["arm"] for cell in json.loads(out)["cells"]] == ["dense", "ticket", "ticket"]


def test_recipe_is_saved_and_runs_the_same(tiny_scenes: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    run(*command(tiny_scenes, tmp_path, "--steps", "3", "--save-recipe", str(recipe)))
    code, _, err = run("prune", str(recipe), "--home", str(tmp_path))
    assert code == 0
    assert "this recipe has been run" in err


def test_dry_run_trains_nothing(tiny_scenes: Path, tmp_path: Path) -> None:
    code, out, _ = run(*command(tiny_scenes, tmp_path, "--seeds", "0,1", "--dry-run"))
    assert code == 0
    assert "6 trainings" in out
    assert not list(tmp_path.iterdir())


def test_another_dtype_is_another_run_that_says_so(tiny_scenes: Path, tmp_path: Path) -> None:
    """Nothing is shared between dtypes; masks hold to the bit in both, and weights stay float32."""
    told = command(tiny_scenes, tmp_path, "--steps", "3", "--device", "cpu", "--json")
    usual, lower = (json.loads(run(*told, *more)[1]) for more in ([], ["--dtype", "bf16"]))
    assert usual["run"] != lower["run"]
    assert "computed_on" not in usual
    assert lower["computed_on"] == {"device": "cpu", "dtype": "bf16"}
    assert not set(usual["cells"][0]["trainings"]) & set(lower["cells"][0]["trainings"])
    ticket = load_ticket(Path(lower["run"]) / "ticket")
    assert ticket.document["computed_on"] == lower["computed_on"]
    for name, mask in ticket.masks.items():
        assert ticket.weights[name].dtype == torch.float32
        assert (ticket.weights[name][~mask].view(torch.int32) == 0).all()
    assert "trained on cpu in bf16" in run(*told[:-1], "--dtype", "bf16")[1]
    assert "trained on cpu in bf16" in (Path(lower["run"]) / "ticket" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--model", "lxmet"],
            "error: unknown model 'lxmet': allowed are lxmert, resnet, uniter, vilt; did you mean 'lxmert'?",
        ),
        (["--task", "vga"], "error: unknown task 'vga'"),
        (["--pattern", "block:7x7"], "error: pattern 'block:7x7' does not divide weight"),
        (["--pattern", "blocks"], "error: unknown pattern 'blocks'"),
        (["--sparsity", "1.2"], "error: sparsity 1.2 is outside [0, 1)"),
        (["--seeds", "one"], "'one': give whole numbers"),
        (["--data", "/nowhere"], "error: no data folder at '/nowhere'"),
        (["--checkpoint", "/nowhere.pth"], "error: "),
        (["--device", "tpu"], "error: unknown device 'tpu': allowed are auto, cpu, cuda, cuda:N"),
        (["--sparsitty", "0.5"], "No such option '--sparsitty'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tiny_scenes: Path, tmp_path: Path, arguments: list[str], text: str
) -> None:
    code, out, err = run(*command(tiny_scenes, tmp_path, *arguments))
    assert code == 2
    assert text in err
    assert "Traceback" not in err + out
    assert not list(tmp_path.rglob("*.safetensors"))
    if "error: " in text:
        assert err.strip().count("\n") == 0


def test_damaged_data_names_the_file_and_trains_nothing(tiny_scenes: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "data"
    shutil.copytree(tiny_scenes, broken)
    features = next(broken.glob("mscoco_imgfeat/train*.tsv"))
    features.write_bytes(features.read_bytes()[:-400])
    code, _, err = run(*command(broken, tmp_path / "home"))
    assert code == 2
    assert features.name in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "home" / "trainings").exists()


def test_folder_without_write_permission(tiny_scenes: Path, tmp_path: Path) -> None:
    locked = tmp_path / "file"
    locked.write_text("")
    code, _, err = run(*command(tiny_scenes, locked / "home", "--steps", "3"))
    assert code == 2
    assert "error: cannot write" in err


_KILLED = """
import os, signal, torch
torch.set_num_threads(1)
from vlcompress.cli.main import main
from vlcompress.tickets import workbench
whole, done = workbench.seal, []
def seal(*arguments):
    if len(done) == {sealed}:  # everything of this training is written but the seal, in a folder that is not yet named
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(whole(*arguments))
workbench.seal = seal
main()
"""


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_killed_at_any_moment_it_ends_in_the_same_bytes(tiny_scenes: Path, tmp_path: Path, dtype: str) -> None:
    """Kill -9 three times, then the same command again: every file of the run and its trainings is the same."""

    def start(home: Path, sealed: int) -> int:
        arguments = command(tiny_scenes, home, "--steps", "6", "--device", "cpu", "--dtype", dtype)
        code = _KILLED.format(sealed=sealed)
        finished = subprocess.run([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL, check=False)
        return finished.returncode

    assert start(tmp_path / "whole", -1) == 0
    home = tmp_path / "killed"
    for sealed in (0, 1, 1):  # of each start: the first training, then the second, then the third is cut off
        assert start(home, sealed) == -signal.SIGKILL
    assert start(home, -1) == 0
    assert tree(home) == tree(tmp_path / "whole")

"""The GPU script without a GPU: its dry run walks every step, and what goes wrong costs only what it concerns."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import gpu

ROOT = Path(gpu.__file__).parents[1]

MISSING = """
import sys
for name in ("pydantic", "pydantic_core", "rich", "jinja2", "tomli_w"):
    sys.modules[name] = None
"""
"""Packages that the machines with a GPU lack: whatever imports one ends with an ImportError."""

IN_ONE_PROCESS = f"""
{MISSING}
import os
os.environ["TRITON_INTERPRET"] = "1"
from bench import gpu, gpu_linears
from vlcompress.kernels import launch
gpu.child = lambda *asked: gpu.run_step(*asked) or "done"
"""
WRONG_KERNEL_AND_BASELINE = """
run = launch.run
launch.run = lambda product, *rest: run(product, *rest) * (1.1 if product.block == (32, 16) else 1)
def broken(*_): raise ValueError("planted")
gpu_linears.cublas = broken
"""
KILLED = """
measure = gpu_linears.measure
gpu_linears.measure = lambda run, cases: os._exit(9) if cases[0].activation == "gelu" else measure(run, cases)
"""


def walked(path: Path, plant: str, only: str = "gate,linears") -> tuple[int, str, Any]:
    """Return exit code, output and record of a dry run with something planted, in a process of its own."""
    code = f"{IN_ONE_PROCESS}{plant}\nsys.exit(gpu.main(['--dry-run', '--only', '{only}', '--out', sys.argv[1]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr, json.loads(path.read_text())


def a_run(path: Path, *, until: float) -> gpu.Run:
    """Return a step of a full run with an empty record."""
    return gpu.Run("linears", path, until, False, {"steps": {}, "failures": []})


def test_without_a_gpu_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "record.json")]) == 0
    assert capsys.readouterr().out == "no CUDA device: nothing was measured\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly  # every step of every family: a minute and a half
def test_the_dry_run_walks_every_step_and_claims_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    (tmp_path / "sitecustomize.py").write_text(MISSING)  # read by the process of every step
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--dry-run", "--out", str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(path.read_text())
    assert record["measured"] is False
    assert gpu.DRY.dtype == gpu.Scale().dtype, "what runs in bf16 alone would not be walked"
    assert list(record["steps"]) == list(gpu.STEPS)
    for step in record["steps"].values():
        assert step["ended"] == ["done"]
        assert step["units"]
        assert {unit["state"] for unit in step["units"].values()} == {"done"}
    # Only what takes a GPU fails: torch's own BSR kernel and 2:4.
    assert all("bsr" in one["what"] or "2:4" in one["what"] for one in record["failures"]), record["failures"]
    rows = [row for step in ("linears", "models", "training", "task") for row in gpu.results(record, step)]
    figures = ("ours", "cublas", "time", "roofline_share", "over_compiled_dense", "peak_mb", "score", "dense_over_this")
    assert all(row.get(name) is None for row in rows for name in figures)
    assert " measured (best" not in done.stdout


def test_a_wrong_kernel_and_a_broken_baseline_cost_only_their_figures(tmp_path: Path) -> None:
    code, said, record = walked(tmp_path / "record.json", WRONG_KERNEL_AND_BASELINE)
    assert code == 1, said
    checked = record["steps"]["gate"]["units"]
    red = {name for name, unit in checked.items() if not unit["result"]["green"]}
    assert red
    assert all("32x16" in name for name in red)
    assert all(name in red for name in checked if "32x16 forward" in name)
    rows = list(gpu.results(record, "linears"))
    assert {tuple(row["block"]) for row in rows} == {(16, 16)}
    assert not any("cublas" in row for row in rows)
    assert any("planted" in one["error"] for one in record["failures"])


def test_a_kill_loses_one_unit(tmp_path: Path) -> None:
    code, _, record = walked(tmp_path / "record.json", KILLED)
    assert code == 9
    assert [unit["state"] for unit in record["steps"]["linears"]["units"].values()] == ["done", "started"]
    assert all(unit["state"] == "done" for unit in record["steps"]["gate"]["units"].values())


def test_a_unit_for_which_there_is_no_time_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    run = a_run(tmp_path / "record.json", until=time.time() + 10)
    run.unit("short", lambda: [], needs=1)
    run.unit("long", lambda: pytest.fail("there is no time for it"), needs=60)
    assert {name: unit["state"] for name, unit in run.units().items()} == {"short": "done", "long": "left out"}
    assert json.loads(run.path.read_text()) == run.record


def test_a_unit_that_was_begun_is_not_begun_again(tmp_path: Path) -> None:
    run = a_run(tmp_path / "record.json", until=time.time() + 100)
    run.units()["crashed"] = {"state": "started"}
    run.unit("crashed", lambda: pytest.fail("it would crash again"))
    assert run.units()["crashed"] == {"state": "started"}


def test_a_step_that_crashes_is_taken_up_again_while_it_gets_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "record.json", []
    a_run(path, until=0).save()

    def crash(name: str, path: Path, until: float, dry: bool) -> str:
        calls.append(name)
        run = gpu.Run(name, path, until, dry)
        if len(calls) < 2:
            run.units()[f"unit {len(calls)}"] = {"state": "started"}
        run.save()
        return "ended early with exit code -11"

    monkeypatch.setattr(gpu, "child", crash)
    gpu.conduct("linears", path, 0, False)
    assert len(calls) == 2
    assert json.loads(path.read_text())["steps"]["linears"]["ended"] == ["ended early with exit code -11"] * 2


def test_a_configuration_whose_check_crashed_is_not_green() -> None:
    assert not gpu.green({"steps": {"gate": {"units": {"tma": {"state": "started"}}}}})
    assert gpu.green({"steps": {"gate": {"units": {"tma": {"state": "done", "result": {"green": True}}}}}})


def test_an_unknown_step_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path / "record.json"), "--only", "linears,speed"])
    assert ended.value.code == 2
    assert "unknown steps speed: allowed are gate" in capsys.readouterr().err

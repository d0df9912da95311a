import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from vlcompress.bench import doctor
from vlcompress.bench.doctor import Check
from vlcompress.cli.main import main

PROJECT = Path(__file__).parents[2]


def test_ranges_are_those_of_the_project_file() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {re.split("[>=<]", line)[0]: line for line in project["optional-dependencies"]["torch"]}
    asked["python"] = f"python{project['requires-python']}"
    for name, (low, high) in {
        "python": doctor.PYTHON,
        "torch": doctor.TORCH,
        "transformers": doctor.TRANSFORMERS,
    }.items():
        assert asked[name] == f"{name}>={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.11.0", "ok"), ("2.13.0+cpu", "ok"), ("2.10.1", "fail"), ("3.0.0", "fail"), ("3.0.0a1", "fail")],
)
def test_a_version_outside_the_range_fails_with_a_fix(version: str, status: str) -> None:
    check = doctor.in_range("torch", version, doctor.TORCH, "install another")
    assert (check.status, check.fix) == (status, "" if status == "ok" else "install another")


def test_both_onnx_runtimes_at_once_fail() -> None:
    assert doctor.onnx_distributions("1.31.1", "1.31.1").status == "fail"
    assert doctor.onnx_distributions(None, None).status == "warn"
    assert doctor.onnx_distributions("1.31.1", None).status == "ok"
    assert doctor.onnx_distributions(None, "1.31.1").status == "ok"


def test_a_session_that_leaves_the_gpu_idle_is_told() -> None:
    assert doctor.session_check(["CPUExecutionProvider"], gpu=True).status == "warn"
    assert doctor.session_check(["CUDAExecutionProvider", "CPUExecutionProvider"], gpu=True).status == "ok"
    assert doctor.session_check(["CPUExecutionProvider"], gpu=False).status == "ok"


def test_weights_are_named_or_missed(tmp_path: Path) -> None:
    assert doctor.weights(tmp_path).status == "fail"
    (tmp_path / "lxmert-small-scenes.safetensors").touch()
    assert doctor.weights(tmp_path).what == "lxmert-small-scenes"


def test_a_home_that_cannot_be_written_fails_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor.writable(tmp_path / "file" / "runs").status == "fail"
    assert doctor.writable(tmp_path / "new" / "runs").status == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("free_gb", "status"), [(80, "ok"), (2, "warn"), (0.1, "fail")])
def test_disk_space_is_judged(free_gb: float, status: str) -> None:
    assert doctor.disk(Path("runs"), int(free_gb * 1e9)).status == status


def test_more_threads_than_cores_and_a_busy_machine_are_warned_of() -> None:
    assert doctor.threads_check(8, 2, 0.1).fix.startswith("set OMP_NUM_THREADS=2")
    assert doctor.threads_check(2, 2, 6.0).status == "warn"
    assert doctor.threads_check(2, 2, None).status == "ok"


def test_a_broken_package_is_a_finding_and_not_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> None:
        raise OSError("libtorch.so: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = {check.name: check for check in doctor.checkup(tmp_path)}
    assert found["torch"].status == "fail"
    assert "cannot open shared object file" in found["torch"].what
    assert "\n" not in found["onnxruntime session"].what


def test_this_machine_is_looked_at_without_a_failed_package(tmp_path: Path) -> None:
    found = {check.name: check for check in doctor.checkup(tmp_path / "runs")}
    for name in ("python", "torch", "transformers", "gpu", "devices", "home"):
        assert found[name].status == "ok", found[name]
    assert "cpu: fp32, bf16, fp16 (inference)" in found["devices"].what
    assert "cpu" in found["providers"].what.split(", ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 3)])
def test_only_a_failure_changes_the_exit_code(monkeypatch: pytest.MonkeyPatch, status: str, code: int) -> None:
    monkeypatch.setattr(doctor, "checkup", lambda home: [Check("a", status, "found", "mend it")])  # type: ignore[arg-type]
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == code
    assert "fix: mend it" in done.stdout
    told = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert told == {
        "ok": code == 0,
        "checks": [{"name": "a", "status": status, "what": "found", "fix": "mend it"}],
    }

import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from vlcompress.cli.main import COMMANDS, main

FLAGS = {
    "prune": {
        "model", "task", "size", "checkpoint", "data", "vocabulary", "pattern", "sparsity", "schedule", "rounds",
        "allocation", "rewind-step", "control", "seeds", "steps", "batch", "learning-rate", "save-recipe", "dry-run",
        "device", "home", "json",
    },
    "compile": {"batch", "threads", "device", "home", "json"},
    "export": {"format", "batch", "threads", "target-ort", "home", "json"},
    "bench": {"batch", "threads", "home", "json"},
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: main " + name)


@pytest.mark.parametrize(("name", "flags"), FLAGS.items(), ids=list(FLAGS))
def test_flags_are_frozen(name: str, flags: set[str]) -> None:
    """A new flag is a promise to keep: it is added here on purpose or not at all."""
    command = main.get_command(None, name)  # type: ignore[arg-type]
    found = {option.removeprefix("--") for parameter in command.params for option in parameter.opts if "--" in option}
    assert found == flags


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vlcompress.cli.main import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    for heavy in ("torch", "numpy", "transformers", "onnx", "PIL"):
        assert f"'{heavy}'" not in output


def test_help_comes_at_once() -> None:
    code = "from vlcompress.cli.main import main; main(['--help'])"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0  # 0.3 s is the goal on a quiet machine (bench/), a test must not depend on the neighbours


def test_unknown_command() -> None:
    result = CliRunner().invoke(main, ["prun"])
    assert result.exit_code == 2
    assert "No such command 'prun'" in result.output

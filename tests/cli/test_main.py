import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vlcompress.cli.main import COMMANDS, main

FLAGS = {
    "prune": {
        "recipe", "model", "task", "size", "checkpoint", "data", "vocabulary", "pattern", "sparsity", "schedule",
        "rounds", "method", "criterion", "speedup", "latency-ms", "size-mb", "flops", "for-batch", "for-threads",
        "allocation", "rewind-step", "control", "seeds", "steps", "batch", "learning-rate", "save-recipe", "dry-run",
        "device", "dtype", "micro-batch", "activation-checkpointing", "devices", "readers", "track", "head", "engine",
        "share", "home", "json",
    },
    "compile": {"batch", "threads", "backend", "explain", "device", "dtype", "home", "json"},
    "export": {
        "format", "batch", "threads", "provider", "provider-option", "expand", "quantize", "fp16", "opset",
        "target-ort", "explain", "home", "json",
    },
    "verify": {"run", "batch", "threads", "device", "dtype", "provider", "provider-option", "home", "json"},
    "tasks": {"markdown", "json"},
    "check-family": {"json"},
    "push": {"dry-run", "private", "json"},
    "predict": {"split", "out", "batch", "form", "device", "dtype", "home", "json"},
    "bench models": {"batch", "threads", "device", "dtype", "provider", "provider-option", "home", "json"},
    "bench serve": {"url", "model", "rate", "seconds", "rows", "seed", "token", "protocol", "home", "json"},
    "serve": {
        "backend", "engine", "replicas", "provider", "provider-option", "device", "dtype", "threads", "sessions",
        "max-batch", "batch-window", "queue", "deadline", "max-body", "grpc-port", "cors", "prefix", "index",
        "host", "port", "token-file", "drain", "poll", "page", "log-level", "otel", "home", "json",
    },
    "speed": {
        "model", "size", "block", "sparsity", "batch", "threads", "device", "dtype", "provider",
        "provider-option", "json",
    },
    "ticket import": {
        "model", "task", "size", "checkpoint", "data", "vocabulary", "pattern", "control", "seeds", "steps", "batch",
        "learning-rate", "device", "dtype", "micro-batch", "activation-checkpointing", "readers", "track", "inverted",
        "home", "json",
    },
    "ticket export": {"as", "out", "home", "json"},
    "native build": {"ort-include", "compiler", "json"},
    "native status": {"json"},
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: main " + name)


@pytest.mark.parametrize(("name", "flags"), FLAGS.items(), ids=list(FLAGS))
def test_flags_are_frozen(name: str, flags: set[str]) -> None:
    """A new flag is a promise to keep: it is added here on purpose or not at all."""
    command: click.Command = main
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), part)
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


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["--json"], ["models", "nowhere"]])
def test_bench_without_a_command_measures_models(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments, "--home", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert "No such command" not in result.output


def test_bench_tells_its_options_and_its_commands() -> None:
    output = CliRunner().invoke(main, ["bench", "--help"]).output
    assert "--threads" in output
    assert "serve" in output


def test_unknown_command() -> None:
    result = CliRunner().invoke(main, ["prun"])
    assert result.exit_code == 2
    assert "No such command 'prun'" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--bogus"], "No such option '--bogus'. Did you mean '--rounds'? (see `main prune --help`)"),
        (["data", "check"], "Missing argument 'FOLDER' (see `main data check --help`)"),
        (["report", "x" * 5000], None),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str | None) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {message or ''}")


@pytest.mark.parametrize(("error", "said"), [(KeyboardInterrupt(), "error: interrupted\n"), (BrokenPipeError(), "")])
def test_an_interruption_has_its_own_code(error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("vlcompress.tasks.support_matrix.read_record", stop)
    result = CliRunner().invoke(main, ["tasks"])
    assert (result.exit_code, result.stderr) == (130, said)


def test_a_reader_that_goes_ends_it_without_a_word() -> None:
    command = [sys.executable, "-m", "vlcompress", "tasks", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == (b"", 130)

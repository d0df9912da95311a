"""Tuning: what is measured, what is kept, and that a wrong kernel never enters a table (in the interpreter)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from vlcompress.kernels import configs
from vlcompress.kernels.configs import KernelConfig
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.formats import unpack
from vlcompress.kernels.timing import Call, GraphTiming, summarise

CPU = torch.device("cpu")


def counting_timer(providers: Mapping[str, Sequence[Call]]) -> dict[str, GraphTiming]:
    """Runs each call once and lets later providers be faster; the dense product takes 100."""
    times = {}
    for position, (name, calls) in enumerate(providers.items()):
        for call in calls:
            call()
        times[name] = GraphTiming(100.0 if name == "dense" else 50.0 - position, 0.1, 1)
    return times


@pytest.fixture
def tune(interpreted: Any) -> Any:
    from vlcompress.kernels import tune

    return tune


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_fastest_right_candidate_is_kept_and_saved(tune: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    key = tune.Key(64, 32, (32, 32), 130, 0.5)
    (entry,) = tune.tune(CPU, [key], dtype, timer=counting_timer)
    assert entry.dense_us == 100.0
    assert entry.config == list(tune.candidates("sm_90", key))[-1]
    path = tune.save([entry], CPU, dtype, tmp_path)
    assert configs.read_table(path) == (entry,)
    origin = json.loads(path.read_text())["origin"]
    assert origin["device"] == "interpreter"
    assert tune.DTYPES[origin["dtype"]] == dtype


def test_products_are_measured_with_what_layers_add(tune: Any) -> None:
    case = tune.make_case(tune.Key(64, 32, (32, 32), 16, 0.5), CPU, torch.float32)
    assert case.activation == "gelu"
    linear = torch.nn.functional.linear(case.x, unpack(case.weight), case.bias)
    torch.testing.assert_close(case.truth.float(), torch.nn.functional.gelu(linear))


def test_a_wrong_kernel_never_enters_a_table(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, lines = tune.launch.run, []

    def wrong(product: Any, activation: str, config: KernelConfig) -> torch.Tensor:
        return run(product, activation, config) * (1.1 if config.kernel == "tma" else 1.0)

    monkeypatch.setattr(tune.launch, "run", wrong)
    key = tune.Key(64, 64, (32, 32), 130, 0.5)
    (entry,) = tune.tune(CPU, [key], progress=lines.append, timer=counting_timer)
    assert entry.config.kernel == "pointer"
    assert sum("kernel='tma'" in line and "allowed is 0.01" in line for line in lines) == 6


def test_a_candidate_that_fails_costs_only_itself(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, lines = tune.launch.run, []

    def failing(product: Any, activation: str, config: KernelConfig) -> torch.Tensor:
        if config.kernel == "tma":
            raise RuntimeError("PassManager::run failed\nand more")
        return run(product, activation, config)

    monkeypatch.setattr(tune.launch, "run", failing)
    (entry,) = tune.tune(CPU, [tune.Key(64, 64, (32, 32), 130, 0.5)], progress=lines.append, timer=counting_timer)
    assert entry.config.kernel == "pointer"
    assert any(line.endswith("RuntimeError: PassManager::run failed") for line in lines)


def test_a_run_that_is_stopped_keeps_what_it_measured(
    tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first key is not computed by any kernel, the second is, and at the third the run is stopped."""
    keys, lines = [tune.Key(n, 32, (32, 32), 130, 0.5) for n in (32, 64, 96)], []
    measure = tune.measure

    def interrupted(key: Any, *rest: Any) -> Any:
        if key.n == 32:
            raise KernelInputError("no kernel computes it")
        if key.n == 96:
            raise KeyboardInterrupt
        return measure(key, *rest)

    monkeypatch.setattr(tune, "measure", interrupted)
    entries = tune.tune(CPU, keys, progress=lines.append, timer=counting_timer)
    with pytest.raises(KeyboardInterrupt):
        tune.save(entries, CPU, torch.bfloat16, tmp_path)
    assert [entry.n for entry in configs.read_table(tmp_path / "sm_90.json")] == [64]
    assert "no kernel computes it" in lines[0]


def test_nothing_measured_is_an_error(tune: Any, tmp_path: Path) -> None:
    with pytest.raises(KernelInputError, match="no table was written"):
        tune.save([], CPU, torch.bfloat16, tmp_path)
    assert not list(tmp_path.iterdir())


def test_summary_is_median_and_spread() -> None:
    assert summarise([3.0, 1.0, 2.0, 100.0, 2.5]) == GraphTiming(2.5, 99.0, 5)


def test_command_without_a_gpu_says_so_in_one_line() -> None:
    from vlcompress.cli.tune import command

    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert "needs a CUDA device" in result.output

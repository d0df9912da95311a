"""Tuning: what is measured, what is kept, and that a wrong kernel never enters a table (in the interpreter)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from vlcompress.kernels import configs
from vlcompress.kernels.configs import KernelConfig
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.timing import Call, Timing, summarise

CPU = torch.device("cpu")


def counting_timer(providers: Mapping[str, Sequence[Call]]) -> dict[str, Timing]:
    """Runs each call once and lets later providers be faster; the dense product takes 100."""
    times = {}
    for position, (name, calls) in enumerate(providers.items()):
        for call in calls:
            call()
        times[name] = Timing(100.0 if name == "dense" else 50.0 - position, 0.1, 1)
    return times


@pytest.fixture
def tune(interpreted: Any) -> Any:
    from vlcompress.kernels import tune

    return tune


def test_the_fastest_right_candidate_is_kept_and_saved(tune: Any, tmp_path: Path) -> None:
    key = tune.Key(64, 64, (32, 32), 128, 0.5)
    (entry,) = tune.tune(CPU, [key], timer=counting_timer)
    assert entry.measured
    assert entry.dense_us == 100.0
    assert entry.config == list(tune.candidates("sm_90", key))[-1]
    path = tune.save([entry], CPU, tmp_path)
    assert configs.read_table(path) == (entry,)


def test_a_wrong_kernel_never_enters_a_table(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tune.launch.run

    def wrong(product: Any, activation: str = "none", config: KernelConfig | None = None) -> torch.Tensor:
        return run(product, activation, config) * (1.1 if config and config.kernel == "tma" else 1.0)

    monkeypatch.setattr(tune.launch, "run", wrong)
    entry = tune.measure(tune.Key(64, 64, (32, 32), 130, 0.5), CPU, counting_timer)
    assert entry.config.kernel == "pointer"
    monkeypatch.setattr(tune.launch, "run", lambda product, **_: torch.zeros(130, 64))
    with pytest.raises(KernelInputError, match="no kernel computes"):
        tune.measure(tune.Key(64, 64, (32, 32), 130, 0.5), CPU, counting_timer)


def test_summary_is_median_and_spread() -> None:
    assert summarise([3.0, 1.0, 2.0, 100.0, 2.5]) == Timing(2.5, 99.0, 5)


def test_command_without_a_gpu_says_so_in_one_line() -> None:
    from vlcompress.cli.tune import command

    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert "needs a CUDA device" in result.output

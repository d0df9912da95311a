"""The GPU script without a GPU: it says so; and its dry run walks the whole of it, gate first."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_kernels


def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_kernels.main([]) == 0
    assert capsys.readouterr().out == "no CUDA device: nothing was measured\n"


@pytest.fixture
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("precision")
def test_dry_run_walks_everything_and_claims_nothing(interpreted: Any, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert gpu_kernels.main(["--dry-run", "--out", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["measured"] is False
    assert record["left_out"] == []
    plan = gpu_kernels.DRY_PLAN
    assert len(record["linears"]) == len(plan.shapes) * len(plan.rows) * len(plan.blocks) * len(plan.sparsities)
    assert record["feed_forward"]
    assert record["encoder"]
    assert all(row["ours"]["median_us"] is None and row["roofline_share"] is None for row in record["linears"])


@pytest.mark.usefixtures("precision")
def test_a_red_gate_writes_no_figure(
    interpreted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = dataclasses.replace(gpu_kernels.DRY_PLAN, shapes=((64, 64),), blocks=((16, 16), (16, 16)), gate_rows=(5,))
    monkeypatch.setattr(gpu_kernels, "DRY_PLAN", tiny)
    run = interpreted.run
    monkeypatch.setattr(interpreted, "run", lambda *args, **kwargs: run(*args, **kwargs) * 1.1)
    path = tmp_path / "record.json"
    assert gpu_kernels.main(["--dry-run", "--out", str(path)]) == 1
    assert "the correctness gate is red" in capsys.readouterr().out
    assert not path.exists()


def test_the_clock_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    run = gpu_kernels.Run(gpu_kernels.Plan(seconds=0.0), gpu_kernels.no_timer)
    assert gpu_kernels.measure_linears(run, run.plan.rows) == []
    assert len(run.left_out) == 20
    assert all(line.endswith("out of time") for line in run.left_out)

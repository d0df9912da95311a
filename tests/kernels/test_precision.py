"""How fp32 is multiplied on a device, by torch's settings in either of their two forms, and which kernels may run."""

import dataclasses
from typing import Any

import pytest
import torch

from vlcompress.kernels import configs
from vlcompress.kernels.configs import KernelConfig

CUDA = torch.device("cuda", 0)


@pytest.fixture
def on(interpreted: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the launcher believe that it compiles for an arch."""

    def pretend(table: str) -> Any:
        monkeypatch.setattr(interpreted, "INTERPRETED", False)
        monkeypatch.setattr(interpreted, "table_of", lambda device: table)
        return interpreted

    return pretend


def test_fp32_is_exact_unless_torch_allows_tf32(on: Any) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert on("sm_90").precision(torch.float32, CUDA) == "tf32x3"
        assert on("sm_90-h100").precision(torch.float32, CUDA) == "tf32x3"
        assert on("sm_80").precision(torch.float32, CUDA) == "ieee"
        assert on("sm_90").precision(torch.bfloat16, CUDA) == "tf32"
        torch.set_float32_matmul_precision("high")
        assert on("sm_90").precision(torch.float32, CUDA) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_newer_setting_of_torch_is_read_too(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert on("sm_90").precision(torch.float32, CUDA) == "tf32"
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert on("sm_90").precision(torch.float32, CUDA) == "tf32x3"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_blocks_that_would_spill_are_refused_with_the_remedy(on: Any) -> None:
    why = on("sm_90").refusal(CUDA, torch.float32, (128, 64))
    assert why is not None
    assert "blocks of 128x64 spill registers on sm_90: prune in sides of at most 64, or compute in tf32 or bf16" in why
    assert on("sm_90").refusal(CUDA, torch.float32, (64, 64)) is None
    assert on("sm_90").refusal(CUDA, torch.bfloat16, (128, 128)) is None
    assert on("sm_80").refusal(CUDA, torch.float32, (128, 64)) is None


def test_exact_tiles_have_at_most_64_rows() -> None:
    config = KernelConfig("tma", 128, 8, 4)
    assert configs.exact(config, (64, 64)) == dataclasses.replace(config, block_m=64, warps=4)


def test_a_refusal_is_a_constant_to_a_compiled_graph(on: Any) -> None:
    on("sm_90")
    from vlcompress.kernels.block_sparse_linear import _no_precision_because

    def refused(x: torch.Tensor) -> torch.Tensor:
        return x + (_no_precision_because(CUDA, x.dtype, (128, 64)) is not None)

    compiled = torch.compile(refused, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)) == 1
    assert compiled(torch.zeros(1, dtype=torch.bfloat16)) == 0

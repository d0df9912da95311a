"""The tables, the nearest-key rule, the fit to shared memory, and the choice between dense and block-sparse."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vlcompress.kernels import configs, cost_model, dispatch
from vlcompress.kernels.configs import ARCHS, Entry, KernelConfig, fit, read_table, rule_of_thumb, write_table
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.naive import block_sparse_linear
from vlcompress.kernels.synthetic import random_weight

CONFIG = KernelConfig("tma", block_m=128, warps=4, stages=4)


def entry(n: int = 768, k: int = 768, m: int = 4096, density: float = 0.5, sparse: float = 5.0) -> Entry:
    return Entry(n, k, (64, 64), m, density, CONFIG, sparse, 10.0, measured=True)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    entries = [
        entry(sparse=8.0),
        entry(density=0.1, sparse=4.0),
        entry(n=3072, sparse=1.0),
        entry(m=640, density=0.3, sparse=2.0),
    ]
    write_table(tmp_path / "sm_90.json", "sm_90", entries, {"source": "test"})
    monkeypatch.setenv(configs.TABLES_VARIABLE, str(tmp_path))
    return entries


@pytest.mark.parametrize("arch", ARCHS)
def test_shipped_tables_are_marked_as_modelled_and_in_step_with_the_model(arch: str) -> None:
    document = json.loads((configs.TABLES / f"{arch}.json").read_text())
    entries = read_table(configs.TABLES / f"{arch}.json")
    assert "not measured" in document["origin"]["source"]
    assert not any(row.measured for row in entries)
    assert list(entries) == cost_model.modelled_entries(arch)


@pytest.mark.parametrize(
    ("key", "index"),
    [
        ((768, 768, 4096, 0.5), 0),
        ((700, 800, 5000, 0.2), 1),
        ((2304, 768, 640, 0.3), 2),  # the shape comes before the rows
        ((768, 768, 1000, 0.5), 3),  # the rows come before the density
    ],
)
def test_nearest_key(table: list[Entry], key: tuple[int, int, int, float], index: int) -> None:
    n, k, m, density = key
    assert configs.find("sm_90", n, k, (64, 64), m, density) == table[index]


def test_a_block_without_entries_takes_the_rule_of_thumb(table: list[Entry]) -> None:
    assert configs.find("sm_90", 768, 768, (16, 16), 4096, 0.5) is None
    assert configs.config_for("sm_90", 768, 768, (16, 16), 4096, 0.5) == rule_of_thumb("sm_90", (16, 16), 4096, 768)
    assert configs.config_for("sm_80", 768, 768, (16, 16), 640, 0.5).kernel == "pointer"
    assert configs.config_for("sm_90", 768, 768, (16, 16), 32, 0.5).kernel == "small"


@pytest.mark.parametrize(
    ("capability", "arch"),
    [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90"), ((10, 3), "sm_100"), ((12, 0), "sm_80")],
)
def test_arch_of(capability: tuple[int, int], arch: str) -> None:
    assert configs.arch_of(*capability) == arch


def test_old_chips_are_refused() -> None:
    with pytest.raises(KernelInputError, match=r"7.5 is not supported"):
        configs.arch_of(7, 5)


def test_fit_takes_stages_first_and_then_rows() -> None:
    assert fit(CONFIG, (64, 64), 2, configs.SHARED_BYTES["sm_90"]) == CONFIG
    assert fit(CONFIG, (128, 128), 2, configs.SHARED_BYTES["sm_90"]).stages == 3
    small = fit(CONFIG, (128, 128), 4, 166_912)
    assert small.stages == 2
    assert small.block_m < 128
    with pytest.raises(KernelInputError, match="needs more shared memory"):
        fit(CONFIG, (128, 128), 4, 49_152)


def test_every_block_and_dtype_fits_every_chip() -> None:
    for height in (16, 128):
        for width in (16, 128):
            for arch in ARCHS:
                for m in (32, 640, 4096):
                    config = rule_of_thumb(arch, (height, width), m, 768)
                    assert fit(config, (height, width), 4, configs.SHARED_BYTES[arch]).stages >= 2


@pytest.mark.parametrize("text", ["", "{}", '{"entries": [{}]}', '{"entries": 3}'])
def test_a_broken_table_names_itself(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sm_90.json"
    path.write_text(text)
    with pytest.raises(KernelInputError, match="is not a table of kernel configurations"):
        read_table(path)


@pytest.mark.parametrize(("sparsity", "backend"), [(0.5, "triton"), (0.7, "triton"), (0.2, "dense"), (0.0, "dense")])
def test_dense_below_the_break_even(table: list[Entry], sparsity: float, backend: str) -> None:
    """8 us at density 0.5 and 4 us at 0.1 reach the 10 us of the dense product at density 0.7."""
    choice = dispatch.choose_for_arch("sm_90", random_weight((768, 768), (64, 64), sparsity).pattern, 4096)
    assert choice.backend == backend
    assert "10.0 µs dense (measured, nearest entry N=768, K=768, block 64x64, M=4096)" in choice.reason


def test_a_modelled_choice_says_so() -> None:
    choice = dispatch.choose_for_arch("sm_90", random_weight((3072, 768), (64, 64), 0.9).pattern, 16384)
    assert choice.backend == "triton"
    assert "modelled, not measured" in choice.reason


def test_the_cpu_takes_the_grouped_path() -> None:
    weight, x = random_weight((64, 64), (16, 16), 0.5), torch.randn(3, 64)
    choice = dispatch.choose(weight.pattern, 3, x.device, x.dtype)
    assert choice.backend == "grouped"
    torch.testing.assert_close(dispatch.linear(x, weight, None, choice), block_sparse_linear(x, weight))
    dense = dataclasses.replace(choice, backend="dense")
    torch.testing.assert_close(dispatch.linear(x, weight, torch.eye(64), dense), x)


def test_the_model_knows_the_hard_floor() -> None:
    """No product is faster than its bytes, and more sparsity never costs more."""
    chip = cost_model.CHIPS["sm_90"]
    times = [cost_model.sparse_us(chip, 16384, 3072, 768, density, (64, 64)) for density in (1.0, 0.5, 0.3, 0.1)]
    assert times == sorted(times, reverse=True)
    assert times[-1] > 2 * 16384 * (768 + 3072) / chip.bandwidth * 1e6
    assert times[0] >= 1.15 * cost_model.dense_us(chip, 16384, 3072, 768)

"""The tables, the nearest-key rule, the fit to shared memory, and the model that filled the tables."""

import json
from pathlib import Path

import pytest

from vlcompress.kernels import configs, cost_model
from vlcompress.kernels.configs import ARCHS, Entry, KernelConfig, fit, read_table, rule_of_thumb, write_table
from vlcompress.kernels.errors import KernelInputError
from vlcompress.kernels.synthetic import pattern_of, random_mask

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


@pytest.mark.parametrize("name", cost_model.CHIPS)
def test_shipped_tables_are_marked_as_modelled_and_in_step_with_the_model(name: str) -> None:
    document = json.loads((configs.TABLES / f"{name}.json").read_text())
    entries = read_table(configs.TABLES / f"{name}.json")
    assert "not measured" in document["origin"]["source"]
    assert document["origin"]["chip"] == cost_model.CHIPS[name].name
    assert not any(row.measured for row in entries)
    assert list(entries) == cost_model.modelled_entries(name)


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
    assert configs.config_for("sm_90", 768, 768, (16, 16), 4096, 0.5) == rule_of_thumb("sm_90", (16, 16), 4096)
    assert configs.config_for("sm_80", 768, 768, (16, 16), 640, 0.5).kernel == "pointer"
    assert configs.config_for("sm_90", 768, 768, (16, 16), 32, 0.5).kernel == "small"


@pytest.mark.parametrize(
    ("capability", "device", "table"),
    [
        ((8, 0), "NVIDIA A100-SXM4-80GB", "sm_80"),
        ((8, 9), "NVIDIA L4", "sm_80"),
        ((9, 0), "NVIDIA H200", "sm_90"),
        ((9, 0), "NVIDIA H100 80GB HBM3", "sm_90-h100"),
        ((10, 3), "NVIDIA B300", "sm_100"),
        ((12, 0), "NVIDIA GeForce RTX 5090", "sm_80"),
    ],
)
def test_the_table_of_a_device(capability: tuple[int, int], device: str, table: str) -> None:
    assert configs.table_name(*capability, device) == table


def test_a_table_of_the_users_own_comes_before_the_shipped_one_of_the_chip(table: list[Entry], tmp_path: Path) -> None:
    assert configs.table_path("sm_90-h100") == tmp_path / "sm_90.json"
    assert configs.table_path("sm_100") == configs.TABLES / "sm_100.json"
    write_table(tmp_path / "sm_90-h100.json", "sm_90-h100", table[:1], {"source": "test"})
    assert configs.load_table("sm_90-h100") == tuple(table[:1])


def test_old_chips_are_refused() -> None:
    with pytest.raises(KernelInputError, match=r"7.5 is not supported"):
        configs.table_name(7, 5, "Tesla T4")


@pytest.mark.parametrize(
    ("config", "block", "splits", "programs"),
    [
        (KernelConfig("tma", 128, 4, 4), (64, 64), False, 2),
        (KernelConfig("tma", 128, 8, 4), (128, 64), False, 1),
        (KernelConfig("tma", 128, 4, 4), (64, 64), True, 1),  # pieces of 32 KiB take the other program's place
        (KernelConfig("tma", 64, 4, 4), (64, 64), True, 2),
    ],
)
def test_programs_that_fit_a_multiprocessor(
    config: KernelConfig, block: tuple[int, int], splits: bool, programs: int
) -> None:
    assert configs.programs_per_sm(config, block, 2, configs.SHARED_BYTES["sm_90"], splits) == programs


def test_splitting_outputs_takes_fewer_rows_a_program() -> None:
    assert configs.for_pieces(CONFIG, (64, 64)).block_m == 64
    assert configs.for_pieces(KernelConfig("tma", 128, 8, 4), (128, 64)).block_m == 64
    assert configs.for_pieces(KernelConfig("small", 32, 4, 4), (64, 64)).block_m == 32


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
                    config = rule_of_thumb(arch, (height, width), m)
                    assert fit(config, (height, width), 4, configs.SHARED_BYTES[arch]).stages >= 2


@pytest.mark.parametrize("text", ["", "{}", '{"entries": [{}]}', '{"entries": 3}'])
def test_a_broken_table_names_itself(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sm_90.json"
    path.write_text(text)
    with pytest.raises(KernelInputError, match="is not a table of kernel configurations"):
        read_table(path)


def modelled(density: float, block: tuple[int, int] = (64, 64), skew: float = 0.0, m: int = 16384) -> float:
    pattern = pattern_of(random_mask((768, 3072), block, 1 - density, skew=skew), block)
    return cost_model.sparse_us("sm_90", m, pattern, rule_of_thumb("sm_90", block, m))


def test_the_model_knows_the_hard_floor() -> None:
    """No product is faster than its bytes, and more sparsity never costs more."""
    chip = cost_model.CHIPS["sm_90"]
    times = [modelled(density) for density in (1.0, 0.5, 0.3, 0.1)]
    assert times == sorted(times, reverse=True)
    assert times[-1] > 2 * 16384 * (768 + 3072) / chip.bandwidth * 1e6
    assert times[0] >= 1.15 * cost_model.dense_us(chip, 16384, 768, 3072)


def test_the_model_counts_traffic_from_l2() -> None:
    """At 50 % and 128 rows a step of 64x64 brings 24 KiB for 1 Mi operations: 128 * 12 * 24 steps at 8.7 TB/s."""
    assert modelled(0.5) >= 128 * 12 * 24 * 24576 / 8.7e12 * 1e6
    assert modelled(0.5, (128, 64)) < 0.75 * modelled(0.5), "a block of 128 rows reads X half as often"


def test_the_model_sees_rows_that_differ() -> None:
    assert modelled(0.1, skew=1.0, m=1152) > 1.2 * modelled(0.1, m=1152)

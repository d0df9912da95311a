"""The tables, the nearest-key rule, and the fit to shared memory."""

from pathlib import Path

import pytest

from vlcompress.kernels import configs
from vlcompress.kernels.configs import ARCHS, Entry, KernelConfig, fit, read_table, rule_of_thumb, write_table
from vlcompress.kernels.errors import KernelInputError

CONFIG = KernelConfig("tma", block_m=128, warps=4, stages=4)


def entry(n: int = 768, k: int = 768, m: int = 4096, density: float = 0.5, sparse: float = 5.0) -> Entry:
    return Entry(n, k, (64, 64), m, density, CONFIG, sparse, 10.0)


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


def test_a_chip_takes_its_own_table_or_else_that_of_its_arch(table: list[Entry], tmp_path: Path) -> None:
    assert configs.table_path("sm_90-h100") == tmp_path / "sm_90.json"
    write_table(tmp_path / "sm_90-h100.json", "sm_90-h100", table[:1], {"source": "test"})
    assert configs.load_table("sm_90-h100") == tuple(table[:1])


def test_where_nothing_was_measured_the_rule_of_thumb_chooses(table: list[Entry]) -> None:
    assert configs.table_path("sm_100") is None
    assert configs.config_for("sm_100", 768, 768, (64, 64), 4096, 0.5) == rule_of_thumb("sm_100", (64, 64), 4096)


def test_a_table_that_says_measured_is_read(table: list[Entry], tmp_path: Path) -> None:
    path = tmp_path / "sm_90.json"
    path.write_text(path.read_text().replace('"sparse_us"', '"measured": true, "sparse_us"'))
    assert read_table(path) == tuple(table)


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

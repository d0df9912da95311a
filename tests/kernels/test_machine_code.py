"""Ahead-of-time compiles for sm_80, sm_90 and sm_100: the instructions, the pipeline and the memory that were
designed for.

The compiles run in a process of their own, since this one has chosen the interpreter. Triton caches them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "kernels" / "README.md"


def run_python(*arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(run_python("-m", "vlcompress.kernels.aot", "--json"))


@pytest.fixture(scope="module")
def facts(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return report["facts"]


@pytest.fixture(scope="module")
def products(facts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The kernels that multiply: all but the one that adds pieces."""
    return {name: code for name, code in facts.items() if "adding" not in name}


def test_nothing_spills(facts: dict[str, dict[str, Any]]) -> None:
    assert {name: code["spilled_bytes"] for name, code in facts.items() if code["spilled_bytes"]} == {}


def test_sm_90_multiplies_with_wgmma(products: dict[str, dict[str, Any]]) -> None:
    for name, code in products.items():
        if name.startswith("sm_90"):
            assert all(instruction.startswith("wgmma m64") for instruction in code["matrix"]), name
    assert products["sm_90 TMA 64x64, 128 rows, GELU"]["matrix"] == ["wgmma m64n64k16"]
    assert products["sm_90 TMA 128x64, 128 rows, GELU"]["matrix"] == ["wgmma m64n128k16"]


def test_sm_80_and_sm_100_use_their_own_matrix_units(products: dict[str, dict[str, Any]]) -> None:
    for name, code in products.items():
        if name.startswith("sm_80"):
            assert code["matrix"] == ["mma.sync m16n8k16"], name
        if name.startswith("sm_100"):
            assert code["matrix"] == ["tcgen05.mma"], name


def test_tiles_come_by_tma_where_intended(products: dict[str, dict[str, Any]]) -> None:
    for name, code in products.items():
        by_tma = "TMA" in name
        assert (code["tma_loads"] > 0) == by_tma, name
        assert (code["async_copies"] > 0) != by_tma, name


def test_the_pipeline_is_as_deep_as_asked(products: dict[str, dict[str, Any]]) -> None:
    """A whole ring, not the half that an index loaded in the same step leaves; sm_80 keeps one stage in registers."""
    for name, code in products.items():
        stages = 3 if "fp32" in name or "dW" in name else 4
        assert code["ring"] == stages - name.startswith("sm_80"), name


def test_products_overlap_the_next_loads_on_sm_90(products: dict[str, dict[str, Any]]) -> None:
    for name, code in products.items():
        if name.startswith("sm_90 TMA"):
            assert 1 in code["waits"], name


def test_two_programs_fit_a_multiprocessor_in_the_default(products: dict[str, dict[str, Any]]) -> None:
    code = products["sm_90 TMA 64x64, 128 rows, GELU"]
    assert 2 * code["shared_bytes"] <= 233_472 - 2 * 1024
    assert 2 * 128 * code["registers"] <= 65_536


def test_readme_holds_this_table(report: dict[str, Any], facts: dict[str, dict[str, Any]]) -> None:
    text = README.read_text()
    for name in facts:
        assert f"| {name} |" in text, "run python -m vlcompress.kernels.aot --readme"
    if f"Triton {report['triton']}." in text:
        for name, code in facts.items():
            row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
            assert row.endswith(f"| {code['registers']} | {code['spilled_bytes']} | {code['shared_bytes']} |")

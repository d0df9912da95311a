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

pytestmark = pytest.mark.nightly

pytest.importorskip("triton", reason="Triton is not installed")

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "kernels" / "README.md"


def run_python(*arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def one_stage(name: str) -> bool:
    """Tell whether a case reads by pointers without a pipeline, as Triton 3.6 must from sm_90 on."""
    import triton

    old = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7)
    return old and "TMA" not in name and not name.startswith("sm_80")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(run_python("-m", "tests.kernels.aot", "--json"))


@pytest.fixture(scope="module")
def facts(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return report["facts"]


@pytest.fixture(scope="module")
def products(facts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The kernels that multiply: all but the one that adds pieces."""
    return {name: code for name, code in facts.items() if "adding" not in name}


def test_nothing_spills(facts: dict[str, dict[str, Any]]) -> None:
    assert {name: code["spilled_bytes"] for name, code in facts.items() if code["spilled_bytes"]} == {}


def test_copies_are_fenced_from_the_matrix_units(facts: dict[str, dict[str, Any]]) -> None:
    """What cp.async or a store wrote, wgmma may read after fence.proxy.async; Triton 3.6 leaves it out after cp.async,
    so kernels that read by pointers run there without."""
    assert {name: code["unfenced"] for name, code in facts.items() if code["unfenced"]} == {}


def test_a_missing_fence_is_seen() -> None:
    from tests.kernels.machine_code import unfenced_products

    copied, fence, product = "cp.async.wait_group 2;\n", "fence.proxy.async.shared::cta;\n", "wgmma.mma_async.sync;\n"
    assert unfenced_products(copied + product + product) == 2
    assert unfenced_products(copied + fence + product + product) == 0
    assert unfenced_products(fence + "st.shared.b32 [%r1], %r2;\n" + product) == 1


def test_fp32_outputs_take_no_approximate_tanh() -> None:
    script = """
from tests.kernels import aot
import torch
for dtype in (torch.bfloat16, torch.float32):
    build = aot.product_tma((64, 64), 64, 4, 2, "gelu_tanh", dtype=dtype)
    print("tanh.approx" in aot.compile_for(build, 90).asm["ptx"])
"""
    assert run_python("-c", script).split() == ["True", "False"]


def test_no_configuration_that_tables_and_rules_can_yield_is_wrong() -> None:
    """Every 61st of some 3,600 must not spill, lack a fence, a matrix unit or memory; `aot --all` compiles all."""
    assert json.loads(run_python("-m", "tests.kernels.aot", "--all", "61")) == {}


def test_sm_90_multiplies_with_wgmma(products: dict[str, dict[str, Any]]) -> None:
    for name, code in products.items():
        if name.startswith("sm_90") and "adding" not in name:
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
        assert (code["async_copies"] > 0) == (not by_tma and not one_stage(name)), name


def test_the_pipeline_is_as_deep_as_asked(products: dict[str, dict[str, Any]]) -> None:
    """A whole ring, not the half that an index loaded in the same step leaves; sm_80 keeps one stage in registers."""
    for name, code in products.items():
        if "three TF32" in name:  # takes the registers of the third stage
            continue
        stages = 1 if one_stage(name) else 3 if "fp32" in name or "dW" in name else 4
        assert code["ring"] == stages - name.startswith("sm_80"), name


def test_products_overlap_the_next_loads_on_sm_90(products: dict[str, dict[str, Any]]) -> None:
    for name, code in products.items():
        if name.startswith("sm_90 TMA") and "three TF32" not in name:  # whose operands are split in between
            assert 1 in code["waits"], name


def test_two_programs_fit_a_multiprocessor_in_the_default(products: dict[str, dict[str, Any]]) -> None:
    code = products["sm_90 TMA 64x64, 128 rows, GELU"]
    assert 2 * code["shared_bytes"] <= 233_472 - 2 * 1024
    assert 2 * 128 * code["registers"] <= 65_536


def test_readme_holds_this_table(report: dict[str, Any], facts: dict[str, dict[str, Any]]) -> None:
    text = README.read_text()
    for name in facts:
        assert f"| {name} |" in text, "run python -m tests.kernels.aot --readme"
    if f"Triton {report['triton']}." in text:
        for name, code in facts.items():
            row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
            assert row.endswith(f"| {code['registers']} | {code['spilled_bytes']} | {code['shared_bytes']} |")

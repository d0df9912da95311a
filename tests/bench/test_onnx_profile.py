"""Profiles are added up over the faster calls, and bounds follow from them."""

import pytest

from bench.onnx_profile import bound_of, kind, shares, table
from vlcompress.bench.environment import environment


def event(name: str, start: int, length: int, operator: str = "") -> dict[str, object]:
    return {"name": name, "ts": start, "dur": length, "cat": "Node", "args": {"op_name": operator}}


def test_shares_are_of_the_faster_calls_and_add_up() -> None:
    events = [
        event("model_run", 0, 1000),
        event("a_kernel_time", 100, 600, "FusedMatMul"),
        event("b_kernel_time", 700, 100, "Unheard"),
        event("b_fence_before", 700, 50, "MatMul"),
        event("model_run", 2000, 5000),
        event("a_kernel_time", 2100, 4000, "MatMul"),
    ]
    assert shares(events) == pytest.approx({"products": 0.6, "else": 0.4, "all": 1.0})


def test_operators_are_told_by_what_they_are_for() -> None:
    assert kind("BlockSparseLinear_12") == "packed nodes"
    assert kind("Reshape") == "joins"
    assert kind("Range") == "else"


def test_a_form_can_only_lose_its_products_and_what_it_made_smaller() -> None:
    dense = {"products": 80.0, "GELU": 20.0, "all": 100.0}
    form = {"products": 30.0, "GELU": 10.0, "gathers": 5.0, "all": 45.0}
    assert bound_of(dense, form, 75, own=False) == pytest.approx(100 / 40)
    assert bound_of(dense, form, 75, own=True) == pytest.approx(100 / 35)
    native = {"products": 1.0, "packed nodes": 30.0, "softmax and turns": 4.0, "all": 35.0}
    assert bound_of(dense, native, 75, own=True) == pytest.approx(100 / 24)


def test_the_table_has_a_row_for_each_record() -> None:
    ms = {"products": 30.0, "else": 10.0, "all": 40.0}
    records = [
        {"form": "dense", "percent": 0, "batch": 1, "ms": ms, "bound": None},
        {"form": "192x16", "percent": 70, "batch": 1, "ms": ms, "bound": 2.0},
    ]
    lines = table({"records": records, "environment": environment(), "runs": 3}).splitlines()
    assert lines[-2].startswith("| dense | - | 1 | 40.0 | 75 % |")
    assert lines[-1].endswith("| 25 % | 2.00 |")

"""What curves say of themselves."""

from dataclasses import replace

import torch

from tests.studies.made import arm, curve, dense
from vlcompress.results import ArmResult, nothing_learned
from vlcompress.studies.curves import Curve, curve_table, curves_report
from vlcompress.tickets.verdict import judge


def test_a_curve_of_what_learned_nothing_says_so_in_place_of_its_findings() -> None:
    """A ticket that keeps all of nothing is no pass: 659 % of a dense model below chance was one."""
    nothing = judge([torch.tensor([0.0, 0.1] * 50)], [torch.tensor([0.2, 0.1] * 50)], blind=0.3)
    cells = (ArmResult("dense", 0, 0.0, (0.05,), ("a",), None), ArmResult("ticket", 1, 0.5, (0.15,), ("b",), nothing))
    found = Curve("accuracy", 100, (0,), 10, cells)
    assert found.sparsest("relaxed") is None
    report = curves_report({"vqa": found}, lambda name, curve: ["a ticket up to 50 %"])
    assert report.findings == (f"vqa: {nothing_learned(nothing.dense, 0.3)}.",)


def with_p(cell: ArmResult, p: float) -> ArmResult:
    assert cell.verdict is not None
    levels = {name: replace(level, p=p) for name, level in cell.verdict.levels.items()}
    return replace(cell, verdict=replace(cell.verdict, levels=levels))


def test_what_is_as_good_as_dense_for_sure_is_corrected_for_the_number_of_verdicts() -> None:
    """0.03 alone is sure, of three it is not; what has no verdict is not counted."""
    tickets = [with_p(arm("ticket", 0.6, sparsity=level), p) for level, p in ((0.3, 0.001), (0.5, 0.03), (0.7, 0.04))]
    nothing = with_p(arm("random", 0.2, outcome="no verdict"), 0.0005)
    found = Curve(**curve(dense(0.6), *tickets, nothing))
    report = curves_report({"vqa": found}, lambda name, curve: [])
    assert report.findings == (
        "vqa: within 1 % of dense with 95 % confidence (non-inferiority, Holm's correction for 3 comparisons): ticket "
        "at 30.0 %.",
    )
    assert [row[-1] for row in curve_table("vqa", found).rows] == ["", "0.0030", "0.0600", "0.0600", ""]

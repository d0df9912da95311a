"""What curves say of themselves."""

import torch

from vlcompress.results import ArmResult, nothing_learned
from vlcompress.studies.curves import Curve, curves_report
from vlcompress.tickets.verdict import judge


def test_a_curve_of_what_learned_nothing_says_so_in_place_of_its_findings() -> None:
    """A ticket that keeps all of nothing is no pass: 659 % of a dense model below chance was one."""
    nothing = judge([torch.tensor([0.0, 0.1] * 50)], [torch.tensor([0.2, 0.1] * 50)], blind=0.3)
    cells = (ArmResult("dense", 0, 0.0, (0.05,), ("a",), None), ArmResult("ticket", 1, 0.5, (0.15,), ("b",), nothing))
    found = Curve("accuracy", 100, (0,), 10, cells)
    assert found.sparsest("relaxed") is None
    report = curves_report({"vqa": found}, lambda name, curve: ["a ticket up to 50 %"])
    assert report.findings == (f"vqa: {nothing_learned(nothing.dense, 0.3)}.",)

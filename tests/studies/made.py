"""Curves as studies give them, with scores and outcomes made up."""

from typing import Any

from vlcompress.results import LEVELS, ArmResult, Level, Outcome, Verdict


def arm(
    name: str, score: float, *, sparsity: float = 0.5, number: int = 1, outcome: Outcome = "pass", margin: float = 0.0
) -> ArmResult:
    """An arm of one seed with the same outcome at every level; dense scores 0.6."""
    levels = {one: Level(one, 0.6, outcome, margin, margin - 0.01, margin + 0.01, 0.5) for one in LEVELS}
    verdict = Verdict(1, 4000, 0.6, score, None, None, levels)
    return ArmResult(name, number, sparsity, (score,), ("made up",), verdict)


def dense(score: float) -> ArmResult:
    """The dense model of one seed."""
    return ArmResult("dense", 0, 0.0, (score,), ("made up",), None)


def curve(*cells: ArmResult, examples: int = 4000) -> dict[str, Any]:
    """What every curve has."""
    return {"metric": "accuracy", "examples": examples, "seeds": (0,), "prunable_weights": 10, "cells": cells}

"""The table of families and tasks: what each cell scores on built-in data, and what of it was compared with whom.

The records beside this file are made by running: ``cells.json`` by ``python -m bench.cells``, ``evidence.json`` by
``python -m bench.evidence``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlcompress.models.base import Config
from vlcompress.models.registry import FAMILIES, families_of
from vlcompress.tasks.base import Blind, EvalTask, PerExampleTask
from vlcompress.tasks.pretraining_task import PretrainingTask
from vlcompress.tasks.registry import tabled
from vlcompress.tasks.retrieval import RetrievalTask

RECORD = Path(__file__).parent / "cells.json"

EVIDENCE = Path(__file__).parent / "evidence.json"

Evidence = dict[str, dict[str, list[str]]]
"""{cell or task: {kind: [test]}}: the tests that show a kind of `MARKS`, by pytest's names."""

MARKS = {"parity": "p", "format": "f", "metric": "m"}
LEGEND = (
    "Score: the dense model on built-in data, one seed, beside what words alone, chance or one answer to all give "
    "(with p: its outputs are compared with the official code's, f: files of its official code are read, "
    "m: the metric is checked against the official evaluator; tests show each). "
    "tiny: random weights and 40 pictures show that a cell runs, not how good it is."
)
_WAITING = "not run"
_NONE = "–"


def marks(family: str, task: str, evidence: Evidence) -> list[str]:
    """List what tests show of a cell, or of its task in every family: "parity", "format", "metric"."""
    shown = {**evidence.get(task, {}), **evidence.get(f"{family}-{task}", {})}
    return [name for name in MARKS if name in shown]


def read_evidence() -> Evidence:
    """Read the record of tests that ``python -m bench.evidence`` writes once all of them have passed."""
    found: Evidence = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    return found


def read_record(path: Path = RECORD) -> dict[str, Any]:
    """Read the recorded cells; without a record there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": {}}


def cells(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List every cell there is: family, task, marks, and what was recorded of it (score None where nothing was)."""
    evidence = read_evidence()
    return [
        {"family": family, "task": task, "marks": marks(family, task, evidence), "score": None}
        | record["cells"].get(f"{family}-{task}", {})
        for task in tabled()
        for family in families_of(task)
    ]


def rows(record: Mapping[str, Any], *, markdown: bool = False) -> list[list[str]]:
    """Lay the table out: a row for each task, a column for each family, and the metric.

    Args:
        record: as `read_record` gives it.
        markdown: tick marks in place of letters.
    """
    found = {(cell["family"], cell["task"]): cell for cell in cells(record)}
    return [
        [kind.title, *(_text(found.get((family, task)), markdown) for family in FAMILIES), kind.judge.metric]
        for task, kind in tabled().items()
    ]


def _text(cell: Mapping[str, Any] | None, markdown: bool) -> str:
    if cell is None:
        return _NONE
    score = _WAITING if cell["score"] is None else f"{100 * cell['score']:.2f}"
    score += blind(cell)
    size = "" if cell.get("size", "small") == "small" else f" ({cell['size']})"
    if markdown:
        return f"{score}{size} " + "".join("✓" if name in cell["marks"] else "·" for name in MARKS)
    return f"{score}{size} " + "".join(sign if name in cell["marks"] else "." for name, sign in MARKS.items())


BLIND = {"gqa": "words_only", "nlvr2": "words_only", "snli_ve": "words_only", "vqa": "question_only"}
CHANCE = {
    **{"vcr": "Q->AR", "retrieval": "R@1", "classification": "fine", "sentences": "kind"},
    **{"pretraining": "constant", "refcoco": "constant"},
}
"""What of a data folder's report stands beside a task's score: per cent of a blind model, or a fraction at random. Of
pre-training no report says any, of RefCOCO only that of annotated boxes, and detected ones are scored: a cell's record
has the fraction that one answer to all that is asked gets, or the best place among the regions."""


def blind(cell: Mapping[str, Any]) -> str:
    """Say " against 34.62": what the cell's data report says of words alone or of chance; "" where it says nothing."""
    found = blind_score(cell["task"], cell.get("without_looking"))
    return "" if found is None else f" against {100 * found:.2f}"


def blind_score(task: str, report: Mapping[str, Any] | None) -> float | None:
    """Look up the score in [0, 1] of questions alone or of chance, None where the data's report says nothing of it.

    Args:
        task: a task.
        report: what `read_baselines` gives.
    """
    if report is None or task not in (*BLIND, *CHANCE):
        return None
    if task in CHANCE:
        return report.get(CHANCE[task])
    found = report[BLIND[task]]
    return float(found["overall"] if isinstance(found, dict) else found) / 100


def read_blind(folder: Path, task: str) -> float | None:
    """Look up the same for a data folder; None for data of one's own, which has no report."""
    return blind_score(task, read_baselines(folder))


def blind_of(reported: float | None, examples: EvalTask, config: Config) -> Blind:
    """Compute what a model that does not look scores on examples, as far as it is known.

    That is what the data's report says (`read_blind`), or one answer given to all of them, whichever is more.
    """
    if isinstance(examples, PretrainingTask):
        return examples.constant(config)
    constant = examples.constant() if isinstance(examples, PerExampleTask | RetrievalTask) else None
    return max((one for one in (reported, constant) if one is not None), default=None)


def read_baselines(folder: Path) -> dict[str, Any] | None:
    """Read what a data folder's report says of chance, or of answers to questions alone; None without a report."""
    file = folder / "data_report.json"
    if not file.is_file():
        return None
    report = json.loads(file.read_text(encoding="utf-8"))
    found = report.get("chance", report.get("scores"))
    return found if isinstance(found, dict) else None  # RefCOCO's is a number, of boxes that are not scored

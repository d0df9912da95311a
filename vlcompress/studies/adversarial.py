"""Figure 5 and Table 5 of Gan et al. (AAAI 2022): tickets and adversarial training.

Two questions: is a ticket that is found adversarially better than one that is found plainly, and does a ticket gain by
being trained adversarially? Training is VILLA's (see `vlcompress.training.adversarial`). The paper scores clean
examples alone; here each model is also scored under attack, at the strength of the training and at ten times that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

from vlcompress.artefacts import dumps, read_entry, write_file
from vlcompress.pruning.mask import Masks
from vlcompress.recipe import Recipe
from vlcompress.report.table import Table
from vlcompress.results import ArmResult
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import (
    Curve,
    curve_of,
    curves_report,
    imp_rows,
    masked_row,
    masks_of,
    near,
    rounds_of,
    score_text,
)
from vlcompress.studies.pretraining_ticket import PRETRAINING, source_recipe
from vlcompress.studies.tickets import ticket_recipe
from vlcompress.tickets.engine import columns
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row, TrainedArm, judged
from vlcompress.tickets.store import TrainingResult
from vlcompress.training.adversarial import Attackable, Perturbation, attacked_score

LEVELS = (0.5, 0.7)
STRENGTHS = {("uniter", "vcr"): "text+image:0.01", ("lxmert", "gqa"): "text:0.01"}
USUAL = "text:0.001"
"""VILLA's for VQA, NLVR2 and SNLI-VE. It publishes none for UNITER's GQA and RefCOCO+, which take the usual one."""
TIMES = (1, 10)
"""The attacks, in steps of the training's length."""
DENSE_HARD, TICKET_HARD = "dense, adversarial", "ticket, trained adversarially"
HARD_TICKET = "adversarial ticket"
UNIVERSAL, UNIVERSAL_HARD = "pre-training ticket", "pre-training ticket, trained adversarially"


@dataclass(frozen=True)
class AttackedArm(ArmResult):
    """An arm, and its scores under attack by the attack's strength; None for a task that no attack is defined for."""

    attacked: Mapping[str, tuple[float, ...] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackedCurve(Curve):
    """Attacked arms, the training's perturbation, and the sparsities that were asked for."""

    cells: tuple[AttackedArm, ...]
    strength: str
    levels: tuple[float, ...]


class AdversarialStudy:
    """See the top of the file."""

    name = "adversarial"
    title = "tickets found and trained adversarially, as VILLA trains (Gan et al. 2022, figure 5, Table 5)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan a cell for each task."""
        return [_cell(choices, task) for task in choices.tasks]

    def report(self, results: Mapping[str, AttackedCurve]) -> StudyReport:
        """Lay out the clean and the attacked scores of every arm, then each task's verdicts."""
        tables = [_scores(task, curve) for task, curve in results.items()]
        return curves_report(results, _findings, tables=tables, published=("a5",))


def strength_of(family: str, task: str) -> str:
    """Look up VILLA's perturbation for a task, as a recipe's `training.adversarial`."""
    return STRENGTHS.get((family, task), USUAL)


def _cell(choices: Choices, task: str) -> StudyCell:
    levels = choices.levels or LEVELS
    plain = ticket_recipe(choices, task, levels)
    hard = plain.override(training={"adversarial": strength_of(choices.family, task)})
    source = source_recipe(choices, PRETRAINING, levels)

    def work(runner: StudyRunner) -> AttackedCurve:
        return _run(runner, plain, hard, source, levels)

    chain = 1 + rounds_of(hard)
    return StudyCell(task, hard, chain + len(choices.seeds) * (2 * chain + 3 * len(levels)), work)


def _run(runner: StudyRunner, plain: Recipe, hard: Recipe, source: Recipe, levels: Sequence[float]) -> AttackedCurve:
    easy, tough = runner.bench(plain), runner.bench(hard)
    universal = runner.bench(source)
    found = masks_of(imp_rows(universal, universal.recipe.pruning.seeds[0], levels))
    seeds = [partial(_column, easy, tough, seed, found, levels) for seed in plain.pruning.seeds]
    cells = judged(columns(runner.engine, seeds), easy.blind)
    arms = tuple(_arm(tough, cell) for cell in cells)
    strength = strength_of(hard.model.family, hard.data.task)
    return AttackedCurve(**{**vars(curve_of(easy, cells)), "cells": arms}, strength=strength, levels=tuple(levels))


def _arm(bench: Experiment, cell: TrainedArm) -> AttackedArm:
    attacked = {str(times): _attacked(bench, cell.trained, times) for times in TIMES}
    return AttackedArm(**vars(cell.result()), attacked=attacked)


def _column(
    easy: Experiment, tough: Experiment, seed: int, found: Sequence[Masks], levels: Sequence[float]
) -> list[Row]:
    return [*_tickets(easy, tough, seed, levels), *_universal(easy, tough, seed, found)]


def _tickets(easy: Experiment, tough: Experiment, seed: int, levels: Sequence[float]) -> Iterator[Row]:
    """Train the dense model both ways, the plain ticket both ways, and the ticket that is found adversarially."""
    dense, *plain = imp_rows(easy, seed, levels)
    dense_hard, *hard = imp_rows(tough, seed, levels, HARD_TICKET)
    yield from (dense, dense_hard._replace(arm=DENSE_HARD), *plain)
    for row in plain:
        yield masked_row(tough, seed, TICKET_HARD, row.result.masks(), row.round, scored=False)
    yield from hard


def _universal(easy: Experiment, tough: Experiment, seed: int, found: Sequence[Masks]) -> Iterator[Row]:
    """Train the pre-training ticket both ways."""
    for arm, bench in ((UNIVERSAL, easy), (UNIVERSAL_HARD, tough)):
        yield from (masked_row(bench, seed, arm, masks, scored=False) for masks in found)


def _attacked(bench: Experiment, trained: Sequence[TrainingResult], times: int) -> tuple[float, ...] | None:
    """Score each training under attack, once; None for a task that no attack is defined for."""
    task = bench.score_task
    if not isinstance(task, Attackable):
        return None
    own = bench.recipe.training.adversarial
    return tuple(_measured(bench, task, one, Perturbation(own.modalities, own.rate * times)) for one in trained)


def _measured(bench: Experiment, task: Attackable, trained: TrainingResult, perturbation: Perturbation) -> float:
    path = trained.folder / f"attacked-{'+'.join(perturbation.modalities)}-{perturbation.rate:g}.json"
    if not path.is_file():
        score = attacked_score(bench.model_of(trained), bench.family, task, perturbation)
        write_file(path, dumps({"score": score}))
    return read_entry(path, "score", kind=float)


def _scores(task: str, curve: AttackedCurve) -> Table:
    header = ("arm", "sparsity %", "clean", *(f"attacked, {times} x" for times in TIMES))
    rows = tuple(
        (
            cell.arm,
            f"{100 * cell.sparsity:.0f}",
            score_text(cell),
            *(_attacked_text(cell, times) for times in TIMES),
        )
        for cell in curve.cells
    )
    return Table(f"{task}, perturbation {curve.strength}", header, rows)


def _attacked_text(cell: AttackedArm, times: int) -> str:
    scores = cell.attacked[str(times)]
    return score_text(replace(cell, scores=scores) if scores else None)


def _findings(task: str, curve: AttackedCurve) -> list[str]:
    dense = curve.dense.percent
    sentences = [f"{task}: adversarial training changes the dense model by {_gain(curve, 'dense', DENSE_HARD, 0.0)}."]
    for level in curve.levels:
        sentences.append(
            f"{task} at {100 * level:.0f} % (dense {dense:.2f}): adversarial training changes the plain ticket by "
            f"{_gain(curve, 'ticket', TICKET_HARD, level)} and the pre-training ticket by "
            f"{_gain(curve, UNIVERSAL, UNIVERSAL_HARD, level)}; finding it adversarially too, by "
            f"{_gain(curve, 'ticket', HARD_TICKET, level)}."
        )
    return sentences


def _gain(curve: AttackedCurve, before: str, after: str, level: float) -> str:
    """Subtract clean scores, and those under the strongest attack where there is one."""
    old, new = (
        cell for name in (before, after) for cell in curve.cells if cell.arm == name and near(cell.sparsity, (level,))
    )
    clean = f"{new.percent - old.percent:+.2f} points"
    hit, was_hit = (cell.attacked[str(TIMES[-1])] for cell in (new, old))
    return f"{clean} ({100 * (fmean(hit) - fmean(was_hit)):+.2f} under attack)" if hit and was_hit else clean

"""Iterative magnitude pruning as Gan et al. (AAAI 2022, Alg. 1) do it, its controls, and the verdict on the outcome.

Each round trains the masked model to the end, prunes what has become smallest, globally, and rewinds: the next round
starts again from θ0 (or θ_i) with a new head φ0. Only the mask survives a round.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

from vlcompress.pruning.criterion import Criterion, Random, Ranking
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Pattern, Unstructured
from vlcompress.pruning.permutation import Permutation
from vlcompress.pruning.schedule import levels
from vlcompress.recipe import Recipe
from vlcompress.results import ArmResult, Verdict
from vlcompress.tasks.base import Blind
from vlcompress.tickets.budgeting import Budget, budget_of
from vlcompress.tickets.disk import Asked, tell_size
from vlcompress.tickets.engine import columns
from vlcompress.tickets.experiment import Experiment, criterion_of, search_permutation
from vlcompress.tickets.spec import Start, Trial
from vlcompress.tickets.store import TrainingResult
from vlcompress.tickets.verdict import check_dense, judge


@dataclass(frozen=True)
class TrainedArm:
    """One arm of the comparison at one level, trained with every seed.

    Attributes:
        arm: "dense", "ticket", or a control's name.
        round: number of pruning rounds behind it; 0 for dense.
        sparsity: of the first seed's mask, fraction of the prunable weights.
        trained: one for each seed, in the recipe's order.
        verdict: against dense; None for dense itself.
    """

    arm: str
    round: int
    sparsity: float
    trained: tuple[TrainingResult, ...]
    verdict: Verdict | None = None

    def result(self) -> ArmResult:
        """Keep what can be reported without the trainings' files."""
        scores = [trained.scores for trained in self.trained]
        return ArmResult(
            arm=self.arm,
            round=self.round,
            sparsity=self.sparsity,
            scores=tuple(one.mean for one in scores),
            figures={name: tuple(one.figures[name] for one in scores) for name in scores[0].figures},
            trainings=tuple(trained.folder.name for trained in self.trained),
            verdict=self.verdict,
        )


class Row(NamedTuple):
    """One arm at one level with one seed: what `judged` makes cells of.

    Attributes:
        arm, round, sparsity: see `TrainedArm`.
        result: what was trained.
    """

    arm: str
    round: int
    sparsity: float
    result: TrainingResult


def count_trainings(recipe: Recipe) -> int:
    """Count the trainings that a recipe asks for, those that are done already included; what is not trained is not."""
    pruning = recipe.pruning
    plan = levels(pruning.schedule, pruning.sparsity, pruning.rounds or None)
    chains = 1 + pruning.controls.count("unstructured")
    single = sum(control not in ("unstructured", *POST_TRAINING) for control in pruning.controls)
    if pruning.weights != "rewound":
        chains = 0
    return len(pruning.seeds) * (1 + chains * len(plan) + single)


def train_arms(experiment: Experiment) -> list[TrainedArm]:
    """Train the dense model, every round of the ticket, and the controls, with every seed; judge each against dense."""
    trainings, pruning = count_trainings(experiment.recipe), experiment.recipe.pruning
    scored = sum(control not in ("unstructured", *POST_TRAINING) for control in pruning.controls)
    tell_size([Asked(experiment, trainings, len(pruning.seeds) * scored)])
    if experiment.progress is not None:
        experiment.progress.plan(trainings)
    seeds = [partial(_one_seed, experiment, seed) for seed in experiment.recipe.pruning.seeds]
    return judged(columns(experiment.engine, seeds), experiment.blind)


def judged(columns: Sequence[Sequence[Row]], blind: Blind) -> list[TrainedArm]:
    """Put the rows of all seeds together and judge each against dense.

    Args:
        columns: the rows of each seed, in the same order of arms and rounds; the first is the dense model.
        blind: scores of the blind baseline; None where they are not known.
    """
    dense = [column[0].result.scores.scores for column in columns]
    cells = []
    for first, *others in zip(*columns, strict=True):
        trained = tuple(row.result for row in (first, *others))
        verdict = None if first.arm == "dense" else judge(dense, [one.scores.scores for one in trained], blind=blind)
        cells.append(TrainedArm(first.arm, first.round, first.sparsity, trained, verdict))
    return cells


def ticket_of(cells: Sequence[TrainedArm]) -> TrainedArm:
    """Pick the ticket: its last round."""
    return [cell for cell in cells if cell.arm == "ticket"][-1]


POST_TRAINING = {"magnitude": ("magnitude", False), "wanda": ("wanda", False), "calibrated": ("fisher", True)}
"""Controls that prune the dense model once and do not train it again: by which criterion, and whether repaired."""

STARTS: dict[str, Start] = {"shuffle": "shuffled", "reinit": "fresh", "language": "language"}
"""Controls that keep the mask and start elsewhere."""


def _one_seed(experiment: Experiment, seed: int) -> Iterator[Row]:
    pruning = experiment.recipe.pruning
    dense = experiment.train(Trial(seed), f"seed {seed} dense")
    check_dense(dense.scores.scores)  # before the rounds, which would be trained for nothing
    yield Row("dense", 0, 0.0, dense)
    budget = budget_of(experiment)
    tickets = list(rounds(experiment, seed, dense, pruning.pattern, "ticket", budget))
    yield from tickets
    plan = [row.sparsity for row in tickets] if budget else None

    def arm(name: str) -> Iterable[Row]:
        if name == "unstructured":
            return rounds(experiment, seed, dense, Unstructured(), name, plan=plan)
        return [control(experiment, seed, name, tickets[-1])]

    yield from chain(*columns(experiment.engine, [partial(arm, name) for name in pruning.controls]))


def rounds(
    experiment: Experiment,
    seed: int,
    dense: TrainingResult,
    pattern: Pattern,
    arm: str,
    budget: Budget | None = None,
    plan: Sequence[float] | None = None,
) -> Iterator[Row]:
    """Prune what the round before has trained, rewind, train; one row a level.

    Args:
        experiment: whose recipe says how.
        seed: of the chain.
        dense: the trained dense model of the seed.
        pattern: what goes together.
        arm: to be named in rows and reports.
        budget: what the rounds may cost, where that decides how far each goes; the levels then say how much of the way.
        plan: the levels; None takes the recipe's.
    """
    pruning = experiment.recipe.pruning
    order = search_permutation(experiment, dense, pattern, seed)
    masks, trained = experiment.keep_all(), dataclasses.replace(dense, reading=order)
    plan = plan or levels(pruning.schedule, pruning.sparsity, pruning.rounds or None)
    patterns = pruning.growth.patterns(pattern, len(plan))
    for number, (level, shape) in enumerate(zip(plan, patterns, strict=True), start=1):
        criterion = criterion_of(experiment, trained, pruning.criterion, seed)
        if budget is None:
            masks = pruned(experiment, trained, masks, level, shape, criterion)
        else:
            masks = budget.cut(trained.weights(), masks, level / plan[-1], criterion)
        label = f"seed {seed} {arm} round {number}/{len(plan)} at {100 * masks.sparsity:.1f} % ({shape})"
        trained = experiment.train(_pruned_trial(experiment, seed, masks, order), label)
        yield Row(arm, number, masks.sparsity, trained)


def control(experiment: Experiment, seed: int, name: str, ticket: Row) -> Row:
    """Train a control of one round of the ticket, "unstructured" apart: see `vlcompress.recipe.CONTROLS`."""
    _, number, sparsity, trained = ticket
    if name in ("oneshot", *POST_TRAINING):
        return _at_once(experiment, seed, name, ticket)
    masks, order = trained.masks(), None
    start, budget = experiment.start, budget_of(experiment)
    if name == "random" and budget is not None:
        masks = budget.like(masks, Random(seed))
    elif name == "random":
        pattern, sizes = experiment.recipe.pruning.pattern, {name: mask.numel() for name, mask in masks.items()}
        # whole units are rounded, maybe to more than a mixture's other weights can give
        sparsity = min(sparsity, pattern.reach_in(sizes, experiment.couplings))
        masks = pruned(experiment, trained, experiment.keep_all(), sparsity, pattern, Random(seed))
    else:
        start, order = STARTS[name], None if name == "reinit" else trained.permutation()
    label = f"seed {seed} control {name} at {100 * masks.sparsity:.1f} %"
    return Row(name, number, masks.sparsity, experiment.train(Trial(seed, masks, start, order, scored=True), label))


def _at_once(experiment: Experiment, seed: int, name: str, ticket: Row) -> Row:
    """Prune the dense model once, as far as the ticket, and train it as the ticket is ("oneshot") or not at all."""
    pruning, order = experiment.recipe.pruning, ticket.result.permutation()
    dense = dataclasses.replace(experiment.dense(seed), reading=order)
    by, repaired = POST_TRAINING.get(name, (pruning.criterion.name, False))
    criterion, budget = criterion_of(experiment, dense, Ranking(by), seed), budget_of(experiment)
    everything = experiment.keep_all()
    if budget is None:
        masks = pruned(experiment, dense, everything, ticket.sparsity, pruning.pattern, criterion)
    else:
        masks = budget.cut(dense.weights(), everything, 1.0, criterion)
    start = "trained" if name in POST_TRAINING else experiment.start
    label = f"seed {seed} control {name} at {100 * masks.sparsity:.1f} %"
    trained = experiment.train(Trial(seed, masks, start, order, repaired=repaired, scored=True), label)
    return Row(name, ticket.round, masks.sparsity, trained)


def _pruned_trial(experiment: Experiment, seed: int, masks: Masks, order: Permutation | None) -> Trial:
    """Say what follows a round: training from where the recipe rewinds to, or none."""
    weights = experiment.recipe.pruning.weights
    start = experiment.start if weights == "rewound" else "trained"
    return Trial(seed, masks, start, order, repaired=weights == "repaired")


def pruned(
    experiment: Experiment, trained: TrainingResult, masks: Masks, level: float, pattern: Pattern, criterion: Criterion
) -> Masks:
    return prune(
        trained.weights(),
        masks,
        level,
        pattern=pattern,
        criterion=criterion,
        allocation=experiment.recipe.pruning.allocation,
        couplings=experiment.couplings,
    )

"""The work of the study of paper c: what each of its cells trains."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

from vlcompress.pruning.criterion import Random
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.pattern import Unstructured
from vlcompress.recipe import Recipe
from vlcompress.studies.base import Json, StudyRunner
from vlcompress.studies.similarity import chance, overlap, zero_kernels
from vlcompress.studies.vision_plan import KINDS, Plan, weights_of
from vlcompress.tickets.controls import complement, perturbed
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row, judged, pruned, rounds
from vlcompress.tickets.spec import Start, Trial

FLIPPED = 0.1
"""Share of the ones, and of the zeros, that a perturbed mask has otherwise (Chen et al., CVPR 2021, section 5.2)."""

RecipeOf = Callable[[StudyRunner, int], Recipe]
"""What a seed trains; it may name weights that are made first."""


def from_random(plan: Plan, task: str) -> RecipeOf:
    """Start from random weights, and go back to them each round (the paper's LT from θ0)."""
    return lambda runner, seed: plan.task(task)


def from_early(plan: Plan, task: str) -> RecipeOf:
    """Start from random weights, and go back to 5 % of the training (θ5%)."""
    return lambda runner, seed: plan.task(task, rewound=True)


def from_pretrained(plan: Plan, task: str, kind: str) -> RecipeOf:
    """Start from pre-trained weights θp, and go back to them."""
    return lambda runner, seed: plan.task(task, weights_of(runner, plan, kind))


def from_tuned(plan: Plan, task: str, kind: str) -> RecipeOf:
    """Start from what the seed's dense training on the task made of θp, and go back to that."""

    def recipe(runner: StudyRunner, seed: int) -> Recipe:
        bench = runner.bench(plan.task(task, weights_of(runner, plan, kind)))
        dense = bench.train(Trial(seed), f"seed {seed} dense")
        return plan.task(task, str(dense.folder / "weights.safetensors"))

    return recipe


def ticket_work(plan: Plan, kind: str) -> Callable[[StudyRunner], Json]:
    """Prune on the pre-training's own task, and count the kernels that go."""

    def work(runner: StudyRunner) -> Json:
        recipe = plan.ticket(kind, weights_of(runner, plan, kind))
        columns = [found(runner.bench(recipe), seed, "pre-training ticket") for seed in plan.seeds]
        kernels = [zero_kernels(row[3].masks()) for row in columns[0][1:]]
        shares = [gone / count if count else 0.0 for gone, count in kernels]
        return {**curve_of(runner.bench(recipe), columns), "zero_kernels": shares}

    return work


def start_work(plan: Plan, recipe_of: RecipeOf) -> Callable[[StudyRunner], Json]:
    """Prune on a task from some start."""

    def work(runner: StudyRunner) -> Json:
        benches = {seed: runner.bench(recipe_of(runner, seed)) for seed in plan.seeds}
        return curve_of(benches[plan.seeds[0]], [found(benches[seed], seed, "task ticket") for seed in plan.seeds])

    return work


def task_work(plan: Plan, kind: str, task: str) -> Callable[[StudyRunner], Json]:
    """Prune on a task from θp, and train the pre-training ticket's masks on it."""

    def work(runner: StudyRunner) -> Json:
        checkpoint = weights_of(runner, plan, kind)
        there, here = (runner.bench(one) for one in (plan.ticket(kind, checkpoint), plan.task(task, checkpoint)))
        return curve_of(here, [list(_transferred(plan, there, here, seed)) for seed in plan.seeds])

    return work


def control_work(plan: Plan, recipe_of: RecipeOf) -> Callable[[StudyRunner], Json]:
    """Train changed masks from the start that the task ticket was found from."""

    def work(runner: StudyRunner) -> Json:
        benches = {seed: runner.bench(recipe_of(runner, seed)) for seed in plan.seeds}
        columns = [list(_controlled(plan, bench, seed)) for seed, bench in benches.items()]
        return curve_of(benches[plan.seeds[0]], columns)

    return work


def similarity_work(plan: Plan) -> Callable[[StudyRunner], Json]:
    """Compare the masks of the three pre-trainings, seed by seed, beside chance."""

    def work(runner: StudyRunner) -> Json:
        masks = {kind: _masks_of(runner, plan, kind) for kind in KINDS}
        groups = [*combinations(KINDS, 2), tuple(KINDS)]
        return {"levels": plan.levels, "groups": [_group(group, masks) for group in groups]}

    return work


def found(bench: Experiment, seed: int, arm: str) -> list[Row]:
    """Return the dense row and one for each round of pruning."""
    dense = bench.train(Trial(seed), f"seed {seed} dense")
    return [("dense", 0, 0.0, dense), *rounds(bench, seed, dense, Unstructured(), arm)]


def random_masks(bench: Experiment, ticket: Row, seed: int) -> Masks:
    """Return masks of a ticket's sparsity that are drawn by chance, over the whole network."""
    return pruned(bench, ticket[3], bench.keep_all(), ticket[2], Unstructured(), Random(seed))


def curve_of(bench: Experiment, columns: Sequence[Sequence[Row]]) -> Json:
    """Return what came as plain JSON, as `vlcompress.studies.curves` reads it."""
    return {
        "metric": bench.score_task.metric,
        "examples": len(bench.score_task),
        "prunable_weights": bench.prunable.weights,
        "cells": [cell.document() for cell in judged(columns)],
    }


def _transferred(plan: Plan, there: Experiment, here: Experiment, seed: int) -> Iterator[Row]:
    yield from found(here, seed, "task ticket")
    tickets = found(there, seed, "pre-training ticket")
    for number in plan.some:
        masks = tickets[number][3].masks()
        label = f"seed {seed} pre-training ticket on the task at {100 * masks.sparsity:.1f} %"
        yield "pre-training ticket", number, masks.sparsity, here.train(Trial(seed, masks), label)


def _controlled(plan: Plan, bench: Experiment, seed: int) -> Iterator[Row]:
    rows = found(bench, seed, "task ticket")
    start: Start = "rewound" if bench.recipe.pruning.rewind_step else "theta0"
    yield rows[0]
    for number in plan.few:
        ticket = rows[number]
        yield ticket
        for name, masks in _changed(bench, ticket, seed).items():
            label = f"seed {seed} {name} mask of the ticket at {100 * ticket[2]:.1f} %"
            yield name, number, masks.sparsity, bench.train(Trial(seed, masks, start), label)


def _changed(bench: Experiment, ticket: Row, seed: int) -> dict[str, Masks]:
    masks = ticket[3].masks()
    return {
        "random": random_masks(bench, ticket, seed),
        "perturbed": perturbed(masks, FLIPPED, seed),
        "complement": complement(masks),
    }


def _masks_of(runner: StudyRunner, plan: Plan, kind: str) -> list[Masks]:
    bench = runner.bench(plan.ticket(kind, weights_of(runner, plan, kind)))
    return [row[3].masks() for row in found(bench, plan.seeds[0], "pre-training ticket")[1:]]


def _group(kinds: Sequence[str], masks: Mapping[str, Sequence[Masks]]) -> Json:
    rounds_ = zip(*(masks[kind] for kind in kinds), strict=True)
    return {"name": " and ".join(kinds), "rows": [_common(same_round) for same_round in rounds_]}


def _common(masks: Sequence[Masks]) -> Json:
    return {"overlap": overlap(masks), "chance": chance(masks), "chance_by_layer": chance(masks, by_layer=True)}

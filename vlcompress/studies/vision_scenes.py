"""Detection and segmentation in the study of paper c: does the pre-training ticket serve pictures of whole scenes?

The backbone starts from θp with the ticket's mask, the small head is fresh (`vlcompress.models.resnet.dense`).
"""

from collections.abc import Callable, Iterator

from vlcompress.artefacts import identity
from vlcompress.data.scenes.located import VERSION, Located, located
from vlcompress.models.base import Family
from vlcompress.models.registry import family_named
from vlcompress.pruning.mask import Masks
from vlcompress.recipe import Recipe
from vlcompress.studies.base import Json, StudyRunner
from vlcompress.studies.vision_plan import Plan, weights_of
from vlcompress.studies.vision_work import curve_of, found, random_masks
from vlcompress.tasks.detection import DetectionTask
from vlcompress.tasks.segmentation import SegmentationTask
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row
from vlcompress.tickets.run import checkpoint_of
from vlcompress.tickets.spec import Trial

SCENE_TASKS: dict[str, Callable[[tuple[Located, ...], Family], DetectionTask | SegmentationTask]] = {
    "detection": DetectionTask,
    "segmentation": SegmentationTask,
}
COUNTS = {"scenes:tiny": (16, 8)}
"""Pictures to learn from and to be scored on, by built-in data."""
_MANY = (1000, 200)


def scene_work(plan: Plan, kind: str, task: str) -> Callable[[StudyRunner], Json]:
    """Train dense, the pre-training ticket at two levels, and a random mask at the last, on whole scenes."""

    def work(runner: StudyRunner) -> Json:
        checkpoint = weights_of(runner, plan, kind)
        here = scene_bench(runner, plan, plan.scenes(checkpoint), task)
        there = runner.bench(plan.ticket(kind, checkpoint))
        return curve_of(here, [list(_rows(plan, there, here, seed)) for seed in plan.seeds])

    return work


def scene_bench(runner: StudyRunner, plan: Plan, recipe: Recipe, task: str) -> Experiment:
    """Open an experiment on pictures of whole scenes, which are made in memory."""
    recipe = recipe.override(data={"task": task})
    family = family_named("resnet")
    train, score = COUNTS.get(plan.data, _MANY)
    return Experiment(
        recipe=recipe,
        family=family,
        train_task=SCENE_TASKS[task](located("train", train), family),
        score_task=SCENE_TASKS[task](located("test", score), family),
        data=(_identity("train", train), _identity("test", score)),
        config=family.config(plan.network, vocab_size=0, feature_dim=0),
        vocabulary="",
        checkpoint=checkpoint_of(recipe, family),
        home=runner.home,
        compute=runner.compute,
        say=runner.say,
        progress=runner.progress,
    )


def _identity(split: str, count: int) -> str:
    return identity({"pictures": "located", "version": VERSION, "split": split, "count": count})


def _rows(plan: Plan, there: Experiment, here: Experiment, seed: int) -> Iterator[Row]:
    yield "dense", 0, 0.0, here.train(Trial(seed), f"seed {seed} dense")
    tickets = found(there, seed, "pre-training ticket")
    for number in plan.two:
        masks = tickets[number][3].masks()
        yield _trained(here, seed, "pre-training ticket", number, masks)
    ticket = tickets[plan.rounds]
    yield _trained(here, seed, "random", ticket[1], random_masks(there, ticket, seed))


def _trained(here: Experiment, seed: int, arm: str, number: int, masks: Masks) -> Row:
    label = f"seed {seed} {arm} on {here.recipe.data.task} at {100 * masks.sparsity:.1f} %"
    return arm, number, masks.sparsity, here.train(Trial(seed, masks), label)

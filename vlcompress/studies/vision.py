"""Chen et al. (CVPR 2021, paper c): do tickets of pre-trained ResNets carry over to what they are used for?

A fifth of the remaining weights goes each round, everywhere but in the first convolution and the head. Tickets are
found on the task of each pre-training (supervised, simCLR, MoCo) and on each task itself; masks are trained from the
weights that they were found from. Levels run to 83.22 % by default; `--levels 0.982` goes as far as the paper.

Pre-training is done here once for each kind, on built-in pictures that no task has. Weights of one's own
(torchvision's, simCLR's, MoCo's files) are taken from ``HOME/pretrained/resnet-SIZE-KIND.pth`` (or ``.safetensors``).
Detection and segmentation are small heads on whole scenes, of which one picture has twelve times the pixels.

Three things differ from the authors' code here: the score is always that of the last step, on pictures that nothing was
chosen by; nothing is pruned before it was trained; the projection head has one layer.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from vlcompress.artefacts import identity
from vlcompress.data.scenes.classes import CLASS_SETS
from vlcompress.data.scenes.located import VERSION, located
from vlcompress.errors import VlcompressError, unknown
from vlcompress.models.registry import family_named
from vlcompress.pruning.criterion import Random
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.pattern import Unstructured
from vlcompress.pruning.schedule import Geometric
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner, by_magnitude
from vlcompress.studies.curves import Curve, curve_of, dense_row, imp_rows, masked_row, masks_of
from vlcompress.studies.similarity import chance, overlap, zero_kernels
from vlcompress.studies.vision_report import (
    KINDS,
    PRETRAINING_TICKET,
    TASK_TICKET,
    InCommon,
    KernelCurve,
    MaskGroup,
    Result,
    Similarity,
    vision_report,
)
from vlcompress.tasks.detection import DetectionTask
from vlcompress.tasks.segmentation import SegmentationTask
from vlcompress.tickets.controls import complement, perturbed
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.imp import Row, judged, pruned
from vlcompress.tickets.open_experiment import checkpoint_of
from vlcompress.tickets.spec import Trial

TASKS = ("shapes", "colours")
"""Sets of classes that are learnt by default."""
SCENE_TASKS: dict[str, type[DetectionTask | SegmentationTask]] = {
    "detection": DetectionTask,
    "segmentation": SegmentationTask,
}
STARTS = ("random", "early", "tuned")
"""Where a task's own ticket starts from and goes back to, beside θp: θ0, 5 % of the training, and θp trained on the
task."""
CONTROLLED = ("random", "early", "supervised")
"""The starts from which changed masks are trained."""

SCHEDULE = Geometric(0.2)
MOST = 8
"""Rounds by default: 83.22 %."""
REWIND = 0.05
"""Share of the steps that the early start keeps (epoch 9 of 182 in the paper)."""
FLIPPED = 0.1
"""Share of the ones, and of the zeros, that a perturbed mask has otherwise (section 5.2)."""

NETWORK = {"tiny": "tiny", "small": "mini"}
"""The network that goes with the built-in data of a size: one that trains in seconds. Other sizes are networks."""
STEPS = {
    "tiny": {"pretraining": 4, "ticket": 2, "task": 4, "scenes": 4},
    "mini": {"pretraining": 600, "ticket": 60, "task": 80, "scenes": 240},
}
RATES = {"pretraining": 5e-3, "ticket": 2e-3, "task": 1e-2, "scenes": 1e-2}
SCENE_PIXELS = 12
"""Pixels of a whole scene, in those of a task's picture."""
SCENES = {"scenes:tiny": (16, 8)}
"""Whole scenes to learn from and to be scored on, by built-in data."""
MANY_SCENES = (1000, 200)


@dataclass(frozen=True)
class VisionPlan:
    """What a user's choices come to.

    Attributes:
        network: a size of the family.
        data: "scenes:SIZE" that built-in pictures are taken from.
        tasks: name of each task, and the source of its data.
        rounds: of pruning.
        seeds: of every training but the pre-trainings, which have one.
    """

    network: str
    data: str
    tasks: dict[str, str]
    rounds: int
    seeds: tuple[int, ...]

    def pretraining(self, kind: str) -> Recipe:
        """Pre-train from random weights."""
        return self._recipe(KINDS[kind], f"{self.data}:concepts", "none", "pretraining")

    def ticket(self, kind: str, checkpoint: str = "none") -> Recipe:
        """Prune on the pre-training's own task, from its weights."""
        return self._recipe(KINDS[kind], f"{self.data}:concepts", checkpoint, "ticket")

    def task(self, name: str, checkpoint: str = "none", *, early: bool = False) -> Recipe:
        """Learn a task from some weights, or from random ones."""
        recipe = self._recipe("classification", self.tasks[name], checkpoint, "task")
        step = max(1, round(REWIND * recipe.training.steps)) if early else 0
        return recipe.override(pruning={"rewind_step": step})

    def scenes(self, checkpoint: str = "none", times: float = 1 / 8) -> Recipe:
        """Detect or segment: an eighth of the batch of a task, by default."""
        recipe = self._recipe("classification", next(iter(self.tasks.values())), checkpoint, "scenes")
        return recipe.override(training={"batch": max(1, int(recipe.training.batch * times))})

    def _recipe(self, task: str, source: str, checkpoint: str, what: str) -> Recipe:
        recipe = default_recipe("resnet", task, self.network)
        if self.network in STEPS:
            own = {"optimizer": "adamw", "steps": STEPS[self.network][what], "batch": 64, "clip": 5.0}
            recipe = recipe.override(training={**own, "learning_rate": RATES[what], "weight_decay": 0.01})
        pruning = {"pattern": "unstructured", "schedule": str(SCHEDULE), "sparsity": SCHEDULE.level(self.rounds)}
        return recipe.override(
            model={"checkpoint": checkpoint},
            data={"source": source},
            pruning={**pruning, "controls": [], "seeds": list(self.seeds)},
        )


def plan_of(choices: Choices) -> VisionPlan:
    """Read what a user chose.

    Raises:
        VlcompressError: another family, a set of classes that there is not, or a folder together with such sets.
    """
    if choices.family not in ("resnet", Choices.family):
        raise VlcompressError(f"study 'vision' on {choices.family}: the paper is about resnet; leave --model out")
    own = bool(choices.source) and not choices.source.startswith("scenes")
    data = f"scenes:{choices.size if choices.size in NETWORK else 'small'}"
    if choices.source and not own:
        data = choices.source
    chosen = TASKS if choices.tasks == Choices.tasks else choices.tasks
    for name in chosen:
        if name not in CLASS_SETS:
            raise unknown("task of study 'vision'", name, CLASS_SETS)
    tasks = {name: data if name == "shapes" else f"{data}:{name}" for name in chosen}
    if own:
        tasks = {Path(choices.source).name: choices.source}
    count = round(math.log1p(-max(choices.levels)) / math.log1p(-SCHEDULE.fraction)) if choices.levels else MOST
    return VisionPlan(NETWORK.get(choices.size, choices.size), data, tasks, max(1, count), choices.seeds)


class Vision:
    """See the top of the file."""

    name = "vision"
    title = "tickets of pre-trained ResNets, supervised and self-supervised (Chen et al. 2021, sections 3 to 5)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """List the tickets of each pre-training, their use on each task, other starts, changed masks, similarity.

        Raises:
            VlcompressError: another family or criterion, or a task that there is not.
        """
        by_magnitude(self.name, choices)
        plan = plan_of(choices)
        first = next(iter(plan.tasks))
        return [
            *(_ticket(plan, kind) for kind in KINDS),
            *(_task(plan, kind, task) for task in plan.tasks for kind in KINDS),
            *(_scene(plan, kind, task) for task in SCENE_TASKS for kind in KINDS),
            *(_start(plan, first, start) for start in STARTS),
            *(_changed(plan, first, start) for start in CONTROLLED),
            StudyCell("similarity", plan.ticket("supervised"), 0, partial(_similarity, plan)),
        ]

    def report(self, results: Mapping[str, Result]) -> StudyReport:
        """Set the highest matching sparsities beside the paper's, with masks in common, kernels, controls, curves."""
        return vision_report(results)


Column = Callable[[StudyRunner, int], tuple[Experiment, Iterable[Row]]]
"""What is trained with a seed, and where."""


def _curve(plan: VisionPlan, column: Column, runner: StudyRunner) -> Curve:
    """Train the column of every seed, and judge them side by side."""

    def trained(seed: int) -> tuple[Experiment, list[Row]]:
        bench, rows = column(runner, seed)
        return bench, list(rows)  # here, side by side with the other seeds: the rows are trained as they are taken

    benches, columns = zip(*runner.engine.together([partial(trained, seed) for seed in plan.seeds]), strict=True)
    return curve_of(benches[0], judged(columns, benches[0].blind))


def _ticket(plan: VisionPlan, kind: str) -> StudyCell:
    """Prune on the pre-training's own task, and count the kernels that go."""

    def column(runner: StudyRunner, seed: int) -> tuple[Experiment, Iterable[Row]]:
        bench = _pretrained(plan, kind, runner)
        return bench, imp_rows(bench, seed, arm=PRETRAINING_TICKET)

    def work(runner: StudyRunner) -> KernelCurve:
        _, rows = column(runner, plan.seeds[0])
        kernels = [zero_kernels(masks) for masks in masks_of(list(rows))]
        shares = tuple(gone / count if count else 0.0 for gone, count in kernels)
        return KernelCurve(**vars(_curve(plan, column, runner)), zero_kernels=shares)

    return StudyCell(f"{kind} ticket", plan.ticket(kind), 1 + len(plan.seeds) * (1 + plan.rounds), work)


def _task(plan: VisionPlan, kind: str, task: str) -> StudyCell:
    """Prune on a task from θp, and train the pre-training ticket on it at every second round."""
    wanted = range(plan.rounds, 0, -2)[::-1]

    def column(runner: StudyRunner, seed: int) -> tuple[Experiment, Iterable[Row]]:
        bench = runner.bench(plan.task(task, weights_of(runner, plan, kind)))
        return bench, [*imp_rows(bench, seed, arm=TASK_TICKET), *_carried(plan, kind, runner, bench, seed, wanted)]

    scored = len(plan.seeds) * len(wanted)
    count = len(plan.seeds) * (1 + plan.rounds) + scored
    return StudyCell(f"{kind} on {task}", plan.task(task), count, partial(_curve, plan, column), scored)


def _scene(plan: VisionPlan, kind: str, task: str) -> StudyCell:
    """Train on whole scenes: dense, the pre-training ticket in the middle and at the end, a random mask at the end."""
    wanted = sorted({max(1, plan.rounds // 2), plan.rounds})

    def column(runner: StudyRunner, seed: int) -> tuple[Experiment, Iterable[Row]]:
        bench = scene_bench(runner, plan, plan.scenes(weights_of(runner, plan, kind)), task)
        tickets = _carried(plan, kind, runner, bench, seed, wanted)
        there = _pretrained(plan, kind, runner)
        random = _random(there, imp_rows(there, seed, arm=PRETRAINING_TICKET)[-1], seed)
        return bench, [dense_row(bench, seed), *tickets, masked_row(bench, seed, "random", random, plan.rounds)]

    # Timed on a task's pictures, of which as many pixels take as long.
    like = plan.scenes(times=SCENE_PIXELS / 8)
    scored = len(plan.seeds) * (1 + len(wanted))
    return StudyCell(f"{kind} on {task}", like, len(plan.seeds) + scored, partial(_curve, plan, column), scored)


def _start(plan: VisionPlan, task: str, start: str) -> StudyCell:
    """Prune on a task from another start."""

    def column(runner: StudyRunner, seed: int) -> tuple[Experiment, Iterable[Row]]:
        bench = _started(plan, task, start, runner, seed)
        return bench, imp_rows(bench, seed, arm=TASK_TICKET)

    count = len(plan.seeds) * (1 + plan.rounds)
    recipe = plan.task(task, early=start == "early")
    return StudyCell(f"{start} start on {task}", recipe, count, partial(_curve, plan, column))


def _changed(plan: VisionPlan, task: str, start: str) -> StudyCell:
    """Train changed masks from the start that the task ticket was found from."""
    wanted = sorted({max(1, round(plan.rounds * part / 3)) for part in (1, 2, 3)})

    def column(runner: StudyRunner, seed: int) -> tuple[Experiment, Iterable[Row]]:
        bench = _started(plan, task, start, runner, seed)
        tickets = imp_rows(bench, seed, arm=TASK_TICKET)
        return bench, [tickets[0], *(row for number in wanted for row in _controls(bench, seed, tickets[number]))]

    count = len(plan.seeds) * 3 * len(wanted)
    recipe = plan.task(task, early=start == "early")
    return StudyCell(f"changed masks, {start} start", recipe, count, partial(_curve, plan, column), scored=count)


def _controls(bench: Experiment, seed: int, ticket: Row) -> list[Row]:
    masks = ticket.result.masks()
    changed = {
        "random": _random(bench, ticket, seed),
        "perturbed": perturbed(masks, FLIPPED, seed),
        "complement": complement(masks),
    }
    return [ticket, *(masked_row(bench, seed, name, one, ticket.round, bench.start) for name, one in changed.items())]


def _similarity(plan: VisionPlan, runner: StudyRunner) -> Similarity:
    """Compare the first seed's masks of the three pre-trainings, two by two and all together, beside chance."""
    found = {kind: imp_rows(_pretrained(plan, kind, runner), plan.seeds[0], arm=PRETRAINING_TICKET) for kind in KINDS}
    masks = {kind: masks_of(rows) for kind, rows in found.items()}
    groups = []
    for kinds in (*combinations(KINDS, 2), tuple(KINDS)):
        by_round = zip(*(masks[kind] for kind in kinds), strict=True)
        groups.append(MaskGroup(" and ".join(kinds), tuple(_common(one) for one in by_round)))
    return Similarity(tuple(SCHEDULE.level(number) for number in range(1, plan.rounds + 1)), tuple(groups))


def _common(masks: Sequence[Masks]) -> InCommon:
    return InCommon(overlap(masks), chance(masks), chance(masks, by_layer=True))


def weights_of(runner: StudyRunner, plan: VisionPlan, kind: str) -> str:
    """Find the pre-trained weights of a kind: the user's file, or what is trained here once."""
    for suffix in (".pth", ".safetensors"):
        own = runner.home / "pretrained" / f"resnet-{plan.network}-{kind}{suffix}"
        if own.is_file():
            return str(own)
    trained = runner.bench(plan.pretraining(kind)).train(Trial(0), f"pre-training {kind}")
    return str(trained.folder / "weights.safetensors")


def _pretrained(plan: VisionPlan, kind: str, runner: StudyRunner) -> Experiment:
    """Open the pre-training's own task, from its weights."""
    return runner.bench(plan.ticket(kind, weights_of(runner, plan, kind)))


def _started(plan: VisionPlan, task: str, start: str, runner: StudyRunner, seed: int) -> Experiment:
    """Open a task from one of `STARTS`, or from a pre-training's weights."""
    if start in ("random", "early"):
        return runner.bench(plan.task(task, early=start == "early"))
    bench = runner.bench(plan.task(task, weights_of(runner, plan, "supervised" if start == "tuned" else start)))
    if start == "tuned":
        dense = bench.train(Trial(seed), f"seed {seed} dense")
        bench = runner.bench(plan.task(task, str(dense.folder / "weights.safetensors")))
    return bench


def scene_bench(runner: StudyRunner, plan: VisionPlan, recipe: Recipe, task: str) -> Experiment:
    """Open a task on pictures of whole scenes, which are made in memory; its head is new."""
    recipe, family = recipe.override(data={"task": task}), family_named("resnet")
    counts = dict(zip(("train", "test"), SCENES.get(plan.data, MANY_SCENES), strict=True))
    train, score = (SCENE_TASKS[task](located(split, count), family) for split, count in counts.items())
    made = [{"pictures": "located", "version": VERSION, "split": split, "count": n} for split, n in counts.items()]
    return Experiment(
        recipe=recipe,
        family=family,
        train_task=train,
        score_task=score,
        data=(identity(made[0]), identity(made[1])),
        config=family.config(plan.network, vocab_size=0, feature_dim=0),
        vocabulary="",
        checkpoint=checkpoint_of(recipe, family),
        home=runner.home,
        compute=runner.compute,
        say=runner.say,
        progress=runner.progress,
    )


def _carried(
    plan: VisionPlan, kind: str, runner: StudyRunner, bench: Experiment, seed: int, wanted: Iterable[int]
) -> list[Row]:
    """Train the pre-training ticket of some rounds on another task."""
    tickets = imp_rows(_pretrained(plan, kind, runner), seed, arm=PRETRAINING_TICKET)
    return [masked_row(bench, seed, PRETRAINING_TICKET, tickets[number].result.masks(), number) for number in wanted]


def _random(bench: Experiment, ticket: Row, seed: int) -> Masks:
    """Draw a mask of a ticket's sparsity over the whole network."""
    return pruned(bench, ticket.result, bench.keep_all(), ticket.sparsity, Unstructured(), Random(seed))

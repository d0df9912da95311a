"""What the study of paper c trains: the recipes of its pre-trainings, tickets and tasks.

Pre-training is done here once for each kind, on built-in pictures that no task has, and shared by all that starts from
it. Weights of one's own (torchvision's, simCLR's, MoCo's files) are taken from ``HOME/pretrained/resnet-SIZE-KIND.pth``
(or ``.safetensors``) in place of that.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from vlcompress.data.scenes.classes import CLASS_SETS
from vlcompress.errors import VlcompressError, unknown
from vlcompress.pruning.schedule import Geometric
from vlcompress.recipe import Recipe, default_recipe
from vlcompress.studies.base import Choices, StudyRunner
from vlcompress.tickets.spec import Trial

KINDS = {"supervised": "classification", "simclr": "simclr", "moco": "moco"}
"""The three pre-trainings, with the task that each is."""

TASKS = ("shapes", "colours")
"""Sets of classes that are learnt by default."""

SCHEDULE = Geometric(0.2)
MOST = 8
"""Rounds by default: 83.22 %."""
REWIND = 0.05
"""Share of the steps that `rewind` keeps (epoch 9 of 182 in the paper)."""

NETWORK = {"tiny": "tiny", "small": "mini"}
"""The network that goes with the built-in data of a size: one that trains in seconds. Other sizes are networks."""


SCENE_PIXELS = 12
"""Pixels of a whole scene, in those of a task's picture."""


@dataclass(frozen=True)
class Length:
    """Optimizer steps of a pre-training, of a round on its task, of a training on a task, and of one on scenes."""

    pretraining: int
    ticket: int
    task: int
    scenes: int


_LENGTH = {"tiny": Length(4, 2, 4, 4), "mini": Length(600, 60, 80, 240)}
_RATE = {"classification": 5e-3, "simclr": 5e-3, "moco": 5e-3}
_TICKET_RATE = 2e-3
_TASK_RATE = 1e-2


@dataclass(frozen=True)
class Plan:
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

    @property
    def levels(self) -> list[float]:
        """Sparsity after each round."""
        return [SCHEDULE.level(number) for number in range(1, self.rounds + 1)]

    @property
    def some(self) -> list[int]:
        """The rounds at which what is found elsewhere is trained: every second one, and the last."""
        return list(range(self.rounds, 0, -2))[::-1]

    @property
    def two(self) -> list[int]:
        """The rounds at which whole scenes are trained: in the middle, and the last."""
        return sorted({max(1, self.rounds // 2), self.rounds})

    @property
    def few(self) -> list[int]:
        """The rounds at which changed masks are trained: about a third, two thirds, and all of the way."""
        return sorted({max(1, round(self.rounds * part / 3)) for part in (1, 2, 3)})

    def pretraining(self, kind: str) -> Recipe:
        """Return the recipe of pre-training from random weights."""
        task = KINDS[kind]
        return self._recipe(task, f"{self.data}:concepts", "none", _RATE[task], "pretraining")

    def ticket(self, kind: str, checkpoint: str = "none") -> Recipe:
        """Return the recipe of pruning on the pre-training's own task, from its weights."""
        return self._recipe(KINDS[kind], f"{self.data}:concepts", checkpoint, _TICKET_RATE, "ticket")

    def task(self, name: str, checkpoint: str = "none", *, rewound: bool = False) -> Recipe:
        """Give the recipe of a task from some weights, or from random ones; `rewound` goes back to 5 % of training."""
        recipe = self._recipe("classification", self.tasks[name], checkpoint, _TASK_RATE, "task")
        step = max(1, round(REWIND * recipe.training.steps)) if rewound else 0
        return recipe.override(pruning={"rewind_step": step})

    def scenes(self, checkpoint: str) -> Recipe:
        """Return the recipe of detection and segmentation: an eighth of the batch of a task."""
        source = next(iter(self.tasks.values()))
        recipe = self._recipe("classification", source, checkpoint, _TASK_RATE, "scenes")
        batch = max(1, recipe.training.batch // 8)
        return recipe.override(training={"batch": batch})

    def like_scenes(self) -> Recipe:
        """Return a recipe on a task's pictures whose trainings take as long as those of `scenes`, to estimate by."""
        recipe = self.scenes("none")
        return recipe.override(training={"batch": SCENE_PIXELS * recipe.training.batch})

    def _recipe(self, task: str, source: str, checkpoint: str, rate: float, what: str) -> Recipe:
        recipe = default_recipe("resnet", task, self.network)
        if self.network in _LENGTH:
            steps = getattr(_LENGTH[self.network], what)
            own = {"optimizer": "adamw", "steps": steps, "batch": 64, "learning_rate": rate, "weight_decay": 0.01}
            recipe = recipe.override(training={**own, "clip": 5.0})
        return recipe.override(
            model={"checkpoint": checkpoint},
            data={"source": source},
            pruning={
                "pattern": "unstructured",
                "schedule": str(SCHEDULE),
                "sparsity": SCHEDULE.level(self.rounds),
                "controls": [],
                "seeds": list(self.seeds),
            },
        )


def plan_of(choices: Choices) -> Plan:
    """Read what a user chose.

    Raises:
        VlcompressError: another family, a set of classes that there is not, or a folder together with such sets.
    """
    if choices.family not in ("resnet", Choices.family):
        raise VlcompressError(f"study 'vision' on {choices.family}: the paper is about resnet; leave --model out")
    own = not choices.source.startswith("scenes")
    data = f"scenes:{choices.size if choices.size in NETWORK else 'small'}"
    if choices.source and not own:
        data = choices.source
    chosen = TASKS if choices.tasks == Choices.tasks else choices.tasks
    for name in chosen:
        if name not in CLASS_SETS:
            raise unknown("task of study 'vision'", name, CLASS_SETS)
    tasks = {name: data if name == "shapes" else f"{data}:{name}" for name in chosen}
    if choices.source and own:
        tasks = {Path(choices.source).name: choices.source}
    rounds = round(math.log1p(-max(choices.levels)) / math.log1p(-SCHEDULE.fraction)) if choices.levels else MOST
    return Plan(NETWORK.get(choices.size, choices.size), data, tasks, max(1, rounds), choices.seeds)


def weights_of(runner: StudyRunner, plan: Plan, kind: str) -> str:
    """Return the pre-trained weights of a kind: the user's file, or what is trained here once."""
    for suffix in (".pth", ".safetensors"):
        own = runner.home / "pretrained" / f"resnet-{plan.network}-{kind}{suffix}"
        if own.is_file():
            return str(own)
    trained = runner.bench(plan.pretraining(kind)).train(Trial(0), f"pre-training {kind}")
    return str(trained.folder / "weights.safetensors")

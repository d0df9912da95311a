"""Chen et al. (CVPR 2021, paper c): do tickets of pre-trained ResNets carry over to what they are used for?

A fifth of the remaining weights goes each round, everywhere but in the first convolution and the head. Tickets are
found on the task of each pre-training (supervised, simCLR, MoCo) and on each task itself; masks are trained from the
weights that they were found from. Levels run to 83.22 % by default; `--levels 0.982` goes as far as the paper.

Detection and segmentation are small heads on whole scenes, of which one picture has twelve times the pixels.

Three things differ from the authors' code here: the score is always that of the last step, on pictures that nothing was
chosen by; nothing is pruned before it was trained; the projection head has one layer.
"""

from collections.abc import Mapping, Sequence

from vlcompress.studies.base import Choices, Json, StudyCell, StudyReport, by_magnitude
from vlcompress.studies.vision_plan import KINDS, Plan, plan_of
from vlcompress.studies.vision_report import report
from vlcompress.studies.vision_scenes import SCENE_TASKS, scene_work
from vlcompress.studies.vision_work import (
    RecipeOf,
    control_work,
    from_early,
    from_pretrained,
    from_random,
    from_tuned,
    similarity_work,
    start_work,
    task_work,
    ticket_work,
)

STARTS = ("random", "early", "tuned")
CONTROLLED = ("random", "early", "supervised")


class Vision:
    """See the top of the file."""

    name = "vision"
    title = "tickets of pre-trained ResNets, supervised and self-supervised (Chen et al. 2021, sections 3 to 5)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Return the tickets of each pre-training, their use on each task, other starts, changed masks, similarity.

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
            *(_control(plan, first, start) for start in CONTROLLED),
            _similarity(plan),
        ]

    def report(self, results: Mapping[str, Json]) -> StudyReport:
        """Return the highest matching sparsities beside the paper's, masks in common, kernels, controls and curves."""
        return report(results)


def _recipe_of(plan: Plan, task: str, start: str) -> RecipeOf:
    if start == "random":
        return from_random(plan, task)
    if start == "early":
        return from_early(plan, task)
    return from_tuned(plan, task, "supervised") if start == "tuned" else from_pretrained(plan, task, start)


def _ticket(plan: Plan, kind: str) -> StudyCell:
    count = 1 + len(plan.seeds) * (1 + plan.rounds)
    return StudyCell(f"{kind} ticket", plan.ticket(kind), count, ticket_work(plan, kind))


def _task(plan: Plan, kind: str, task: str) -> StudyCell:
    count = len(plan.seeds) * (1 + plan.rounds + len(plan.some))
    return StudyCell(f"{kind} on {task}", plan.task(task), count, task_work(plan, kind, task))


def _scene(plan: Plan, kind: str, task: str) -> StudyCell:
    count = len(plan.seeds) * (2 + len(plan.two))
    return StudyCell(f"{kind} on {task}", plan.like_scenes(), count, scene_work(plan, kind, task))


def _start(plan: Plan, task: str, start: str) -> StudyCell:
    count = len(plan.seeds) * (1 + plan.rounds)
    work = start_work(plan, _recipe_of(plan, task, start))
    return StudyCell(f"{start} start on {task}", plan.task(task, rewound=start == "early"), count, work)


def _control(plan: Plan, task: str, start: str) -> StudyCell:
    count = len(plan.seeds) * 3 * len(plan.few)
    work = control_work(plan, _recipe_of(plan, task, start))
    return StudyCell(f"changed masks, {start} start", plan.task(task, rewound=start == "early"), count, work)


def _similarity(plan: Plan) -> StudyCell:
    return StudyCell("similarity", plan.ticket("supervised"), 0, similarity_work(plan))

"""Refuse what cannot work, and warn of what has no effect, before anything is trained."""

import copy

from torch import nn

from vlcompress.errors import VlcompressError
from vlcompress.models.blocks import checkpoint_blocks
from vlcompress.models.checkpoints import on_hub
from vlcompress.models.language import language_part
from vlcompress.models.objective import Objective
from vlcompress.models.registry import modality_of
from vlcompress.pruning.allocation import Modality
from vlcompress.pruning.pattern import SAME, Unstructured
from vlcompress.pruning.schedule import levels
from vlcompress.tasks.base import LogitTask
from vlcompress.tickets.experiment import Experiment, build_model, objective_of, teachable
from vlcompress.tickets.spec import Trial
from vlcompress.training.calibration import check_linear
from vlcompress.training.distillation import Distilled
from vlcompress.training.fit import fitted


def check_run(experiment: Experiment) -> None:
    """Refuse what cannot work before hours are spent on it, and warn of what has no effect.

    Raises:
        VlcompressError: names that are unknown; a pattern that does not divide a weight, or does not reach the
            sparsity; a schedule that prunes nothing; controls, distillation, adversarial training or block growth where
            they are not defined; a checkpoint that is not there or does not fit.
    """
    pruning = experiment.recipe.pruning
    shapes = {name: experiment.shapes[name] for name in experiment.prunable.names}
    pruning.pattern.check(shapes, experiment.couplings, pruning.sparsity)
    _check_objective(experiment)
    _check_calibration(experiment)
    plan = levels(pruning.schedule, pruning.sparsity, pruning.rounds or None)
    if not plan:
        raise VlcompressError("sparsity 0 prunes nothing: give a fraction above 0, for example 0.5")
    for pattern in dict.fromkeys(pruning.growth.patterns(pruning.pattern, len(plan))):
        pattern.check(shapes, experiment.couplings, pruning.sparsity)
    if pruning.pattern == Unstructured() and "unstructured" in pruning.controls:
        raise VlcompressError(
            "control 'unstructured' is the ticket itself here: leave it out, or choose a block pattern"
        )
    _check_starts(experiment)
    for line in [*_without_effect(experiment), *_short_of(experiment, plan[-1])]:
        experiment.say(f"warning: {line}")


def tell_no_faster(experiment: Experiment) -> None:
    """Say where what is pruned can make nothing faster: single zeros, but in twos of four on a GPU."""
    pattern = experiment.recipe.pruning.pattern
    single = [part for part in pattern.by_kind.values() if part.block == (1, 1)]
    if single and not (experiment.compute.on_gpu and pattern.own_sparsity is not None):
        instead = "; whole units do: --pattern neuron+head, or --speedup 2" if experiment.couplings else ""
        experiment.say(
            f"warning: pattern '{single[0]}' leaves single zeros, which no runtime here runs faster or stores "
            f"smaller{instead}"
        )


def check_length(experiment: Experiment) -> None:
    """Refuse to rewind to a step that trainings on this data never reach.

    Raises:
        VlcompressError: `rewind_step` is not inside the training.
    """
    step, steps = experiment.recipe.pruning.rewind_step, experiment.hyper.steps
    if step >= steps:
        raise VlcompressError(f"rewind_step {step} is outside the training of {steps} steps: give 0 to {steps - 1}")


def fit(experiment: Experiment) -> None:
    """Settle the experiment's micro-batch: see `vlcompress.training.fit.fitted`."""

    def training() -> tuple[nn.Module, Objective]:
        model = experiment.family.build(experiment.config, experiment.train_task.head, seed=0)
        distill = experiment.recipe.training.distill
        if not distill:
            return model, objective_of(experiment, Trial(0))
        teacher = copy.deepcopy(model).to(experiment.compute.torch_device)
        return model, Distilled(teachable(experiment), experiment.family, teacher, distill)

    experiment.compute = fitted(experiment.compute, experiment.hyper, training, experiment.say)


def _check_objective(experiment: Experiment) -> None:
    if experiment.recipe.training.distill:
        teachable(experiment)
    if experiment.recipe.training.adversarial:
        objective_of(experiment, Trial(experiment.recipe.pruning.seeds[0]))


def _check_calibration(experiment: Experiment) -> None:
    """Refuse to calibrate where there are no logits, or by inputs of what is no linear layer, before any training."""
    pruning = experiment.recipe.pruning
    asked = {f"criterion '{pruning.criterion}'": pruning.criterion.calibrated}
    asked |= {f"weights '{pruning.weights}'": pruning.weights == "repaired"}
    asked |= {f"control '{name}'": name in ("wanda", "calibrated") for name in pruning.controls}
    for what in [name for name, needed in asked.items() if needed]:
        if not isinstance(experiment.train_task, LogitTask):
            raise VlcompressError(
                f"{what} on {experiment.recipe.data.task}: calibration looks at logits, which this task has none of; "
                "take criterion 'magnitude' or 'gradient'"
            )
        if what != "criterion 'fisher'":
            model = experiment.family.skeleton(experiment.config, experiment.train_task.head)
            check_linear(model, experiment.prunable.names)


def _check_starts(experiment: Experiment) -> None:
    """Load what trainings start from, where it is on this machine; the hub is asked when the first one begins."""
    seed = experiment.recipe.pruning.seeds[0]
    if experiment.checkpoint and not on_hub(experiment.checkpoint):
        build_model(experiment, Trial(seed, start="theta0"))
    if "language" in experiment.recipe.pruning.controls:
        language_part(experiment.family)
        if experiment.language_model and not on_hub(experiment.language_model):
            build_model(experiment, Trial(seed, start="language"))


def _without_effect(experiment: Experiment) -> list[str]:
    pruning, warnings = experiment.recipe.pruning, []
    pattern = pruning.pattern
    if experiment.compute.activation_checkpointing:
        model = experiment.family.build(experiment.config, experiment.train_task.head, seed=0)
        if not checkpoint_blocks(model):
            warnings.append(
                f"activation checkpointing has no effect on {experiment.family.name}: it has no such blocks"
            )
    if pruning.weights != "rewound":
        idle = {"pruning.rewind_step": pruning.rewind_step, "training.distill": experiment.recipe.training.distill}
        warnings += [
            f"{name} {value:g} has no effect with pruning.weights '{pruning.weights}': nothing is trained after pruning"
            for name, value in idle.items()
            if value
        ]
    if pruning.growth and pattern == Unstructured():
        warnings.append(f"pruning.growth '{pruning.growth}' has no effect with pattern '{pattern}': it has no blocks")
    if pruning.permutation and not pruning.permutation.free(pattern, experiment.couplings):
        warnings.append(
            f"pruning.permutation '{pruning.permutation}' has no effect with pattern '{pattern}': it cuts no blocks "
            "from what could be reordered"
        )
    if pruning.allocation == Modality() and len({modality_of(name) for name in experiment.prunable.names}) == 1:
        warnings.append(f"pruning.allocation 'modality' has no effect on {experiment.family.name}: it has one part")
    return warnings


def _short_of(experiment: Experiment, last: float) -> list[str]:
    """Say where rounds end before each group of an n:m pattern has lost all that it takes from it."""
    pattern = experiment.recipe.pruning.pattern
    sizes = {name: experiment.shapes[name].numel() for name in experiment.prunable.names}
    share = pattern.share(last, sizes, experiment.couplings)
    return [
        f"at sparsity {last:g} some groups of {part.spares[1]} weights keep more than {part.spares[0]}: pattern "
        f"'{part}' holds throughout where {100 * part.reach:g} % of a weight is pruned, and here it is "
        f"{100 * share:.4g} %"
        for part in dict.fromkeys(pattern.by_kind.values())
        if part.spares is not None and share < part.reach - SAME
    ]

"""What cannot work is refused, and what has no effect told, before anything is trained."""

from vlcompress.errors import VlcompressError
from vlcompress.models.checkpoints import on_hub
from vlcompress.models.language import language_part
from vlcompress.models.registry import part_of
from vlcompress.pruning.allocation import Modality
from vlcompress.pruning.pattern import SAME, Unstructured
from vlcompress.pruning.schedule import levels
from vlcompress.tickets.experiment import Experiment, build_model, objective_of, teachable
from vlcompress.tickets.spec import Trial


def check_run(bench: Experiment) -> None:
    """Refuse what cannot work before hours are spent on it, and say what has no effect.

    Raises:
        VlcompressError: names that are unknown; a pattern that does not divide a weight, or does not reach the
            sparsity; a schedule that prunes nothing; controls, distillation, adversarial training or block growth where
            they are not defined; a checkpoint that is not there or does not fit.
    """
    pruning = bench.recipe.pruning
    shapes = {name: bench.shapes[name] for name in bench.prunable.names}
    pruning.pattern.check(shapes, bench.couplings, pruning.sparsity)
    _check_objective(bench)
    plan = levels(pruning.schedule, pruning.sparsity, pruning.rounds or None)
    if not plan:
        raise VlcompressError("sparsity 0 prunes nothing: give a fraction above 0, for example 0.5")
    for pattern in dict.fromkeys(pruning.growth.patterns(pruning.pattern, len(plan))):
        pattern.check(shapes, bench.couplings, pruning.sparsity)
    if pruning.pattern == Unstructured() and "unstructured" in pruning.controls:
        raise VlcompressError(
            "control 'unstructured' is the ticket itself here: leave it out, or choose a block pattern"
        )
    _check_starts(bench)
    for line in [*_without_effect(bench), *_short_of(bench, plan[-1])]:
        bench.say(f"warning: {line}")


def check_length(bench: Experiment) -> None:
    """Refuse to rewind to a step that trainings on this data never reach.

    Raises:
        VlcompressError: `rewind_step` is not inside the training.
    """
    step, steps = bench.recipe.pruning.rewind_step, bench.hyper.steps
    if step >= steps:
        raise VlcompressError(f"rewind_step {step} is outside the training of {steps} steps: give 0 to {steps - 1}")


def _check_objective(bench: Experiment) -> None:
    if bench.recipe.training.distill:
        teachable(bench)
    if bench.recipe.training.adversarial:
        objective_of(bench, Trial(bench.recipe.pruning.seeds[0]))


def _check_starts(bench: Experiment) -> None:
    """Load what trainings start from, where it is on this machine; the hub is asked when the first one begins."""
    seed = bench.recipe.pruning.seeds[0]
    if bench.checkpoint and not on_hub(bench.checkpoint):
        build_model(bench, Trial(seed, start="theta0"))
    if "language" in bench.recipe.pruning.controls:
        language_part(bench.family)
        if bench.language_model and not on_hub(bench.language_model):
            build_model(bench, Trial(seed, start="language"))


def _without_effect(bench: Experiment) -> list[str]:
    pruning, said = bench.recipe.pruning, []
    pattern = pruning.pattern
    if pruning.growth and pattern == Unstructured():
        said.append(f"pruning.growth '{pruning.growth}' has no effect with pattern '{pattern}': it has no blocks")
    if pruning.permutation and not pruning.permutation.free(pattern, bench.couplings):
        said.append(
            f"pruning.permutation '{pruning.permutation}' has no effect with pattern '{pattern}': it cuts no blocks "
            "from what could be reordered"
        )
    if pruning.allocation == Modality() and len({part_of(name) for name in bench.prunable.names}) == 1:
        said.append(f"pruning.allocation 'modality' has no effect on {bench.family.name}: it has one part")
    return said


def _short_of(bench: Experiment, last: float) -> list[str]:
    """Say where rounds end before each group of an n:m pattern has lost all that it takes from it."""
    pattern = bench.recipe.pruning.pattern
    sizes = {name: bench.shapes[name].numel() for name in bench.prunable.names}
    share = pattern.share(last, sizes, bench.couplings)
    return [
        f"at sparsity {last:g} some groups of {part.spares[1]} weights keep more than {part.spares[0]}: pattern "
        f"'{part}' holds throughout where {100 * part.reach:g} % of a weight is pruned, and here it is "
        f"{100 * share:.4g} %"
        for part in dict.fromkeys(pattern.by_kind.values())
        if part.spares is not None and share < part.reach - SAME
    ]

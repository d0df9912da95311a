"""What a recipe may pull beside plain magnitude pruning, checked before anything is trained."""

from vlcompress.models.anatomy import part_of
from vlcompress.pruning.growth import grown
from vlcompress.pruning.mixture import Mixture
from vlcompress.pruning.pattern import Pattern, Unstructured, parse_pattern
from vlcompress.pruning.permutation import free_orders
from vlcompress.pruning.schedule import levels, parse_schedule
from vlcompress.tickets.workbench import Trial, Workbench


def check_levers(bench: Workbench) -> None:
    """Refuse what cannot work, and say what has no effect.

    Raises:
        VlcompressError: distillation for a task that has no logits; adversarial training where it is not defined; block
            growth that does not fit pattern, weights or schedule.
    """
    if bench.recipe.training.distill:
        bench.teachable()
    if bench.recipe.training.adversarial:
        bench.objective(Trial(bench.recipe.pruning.seeds[0]))
    pattern = parse_pattern(bench.recipe.pruning.pattern)
    _check_growth(bench, pattern)
    for line in _without_effect(bench, pattern):
        bench.say(f"warning: {line}")


def _check_growth(bench: Workbench, pattern: Pattern | Mixture) -> None:
    pruning = bench.recipe.pruning
    rounds = len(levels(parse_schedule(pruning.schedule), pruning.sparsity, pruning.rounds or None))
    for one in grown(pruning.growth, pattern, rounds) if pruning.growth else ():
        if not isinstance(one, Mixture):
            for name in bench.prunable.names:
                one.check(name, bench.shapes[name])


def _without_effect(bench: Workbench, pattern: Pattern | Mixture) -> list[str]:
    pruning = bench.recipe.pruning
    said = []
    if pruning.growth and isinstance(pattern, Unstructured):
        said.append(f"pruning.growth '{pruning.growth}' has no effect with pattern '{pattern}': it has no blocks")
    if pruning.permutation and not free_orders(pruning.permutation, pattern, bench.couplings):
        said.append(
            f"pruning.permutation '{pruning.permutation}' has no effect with pattern '{pattern}': it cuts no blocks "
            "from what could be reordered"
        )
    if pruning.allocation == "modality" and len({part_of(name) for name in bench.prunable.names}) == 1:
        said.append(f"pruning.allocation 'modality' has no effect on {bench.family.name}: it has one part")
    return said

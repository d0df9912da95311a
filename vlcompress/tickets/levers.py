"""What a recipe may pull beside plain magnitude pruning, checked before anything is trained."""

from vlcompress.tickets.workbench import Trial, Workbench


def check_levers(bench: Workbench) -> None:
    """Refuse what cannot work, and say what has no effect.

    Raises:
        VlcompressError: distillation for a task that has no logits, adversarial training where it is not defined.
    """
    if bench.recipe.training.distill:
        bench.teachable()
    if bench.recipe.training.adversarial:
        bench.objective(Trial(bench.recipe.pruning.seeds[0]))

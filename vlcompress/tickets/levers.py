"""What a recipe may pull beside plain magnitude pruning, checked before anything is trained."""

from vlcompress.tickets.workbench import Workbench


def check_levers(bench: Workbench) -> None:
    """Refuse what cannot work, and say what has no effect.

    Raises:
        VlcompressError: distillation for a task that has no logits.
    """
    if bench.recipe.training.distill:
        bench.teachable()

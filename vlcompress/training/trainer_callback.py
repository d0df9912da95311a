"""A Pruner in the Trainer of transformers: its optimizer is held, and every so many steps the next level is pruned."""

import warnings
from typing import Any

from transformers import TrainerCallback

from vlcompress.training.pruner import Pruner


class PrunerCallback(TrainerCallback):  # type: ignore[misc]
    """Hold a Trainer's optimizer, and prune while it trains.

    Args:
        pruner: of the Trainer's model.
        every: optimizer steps between two levels of the schedule (gradual pruning); 0 only holds what is pruned, as in
            IMP, where every round is a Trainer of its own.
    """

    def __init__(self, pruner: Pruner, every: int = 0) -> None:
        self._pruner, self._every = pruner, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the optimizer, and warn of a training that ends before the schedule."""
        self._pruner.hold(kwargs["optimizer"])
        levels = self._pruner.levels
        reached = self._pruner.round + (state.max_steps // self._every if self._every else len(levels))
        if reached < len(levels):
            warnings.warn(
                f"this training ends at level {reached} of {len(levels)} ({levels[reached - 1] if reached else 0:.0%} "
                f"pruned): {state.max_steps} steps, one level every {self._every}; lower `every`",
                stacklevel=2,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune to the next level when it is due."""
        if self._every and state.global_step % self._every == 0:
            self._pruner.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune the model that is kept, which may be an earlier checkpoint, and let the optimizer go."""
        self._pruner.apply()
        self._pruner.release(kwargs["optimizer"])

"""A Pruner in the Trainer of transformers: its optimizer is held, and every so many steps the next level is pruned.

Each checkpoint of the Trainer keeps the Pruner's state, and a resumed training goes on from it.
"""

import warnings
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vlcompress.artefacts import load_tensors, save_tensors
from vlcompress.errors import VlcompressError
from vlcompress.training.pruner import Pruner, masks_in

FILE = "pruner.safetensors"
"""In a checkpoint of the Trainer."""


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
        """Hold the optimizer, and warn of a training that ends before the schedule.

        Raises:
            VlcompressError: the training is resumed, and its checkpoint holds no state of this Pruner, or of another.
        """
        if getattr(state, "global_step", 0):
            self._resume(args, state.global_step, kwargs["model"])
        self._pruner.hold(kwargs["optimizer"])
        levels = self._pruner.levels
        due = state.max_steps // self._every - state.global_step // self._every if self._every else len(levels)
        reached = self._pruner.round + due
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

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the Pruner's state in the Trainer's checkpoint; one process of several does."""
        if state.is_world_process_zero:
            save_tensors(_checkpoint(args, state.global_step) / FILE, self._pruner.state_dict())

    def _resume(self, args: Any, step: int, model: nn.Module) -> None:
        """Go on from the checkpoint that the Trainer has just loaded the weights of."""
        said = [Path(args.resume_from_checkpoint)] if isinstance(args.resume_from_checkpoint, str) else []
        places = [folder / FILE for folder in (*said, _checkpoint(args, step))]
        path = next((one for one in places if one.is_file()), None)
        if path is None:
            raise VlcompressError(
                f"this training goes on from step {step}, and there is no {' or '.join(map(repr, map(str, places)))}: "
                "name the checkpoint by TrainingArguments(resume_from_checkpoint=...), or train anew"
            )
        found = load_tensors(path)
        masks_in(found).check_held(model)  # or it is the checkpoint of another training
        self._pruner.load_state_dict(found)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune the model that is kept, which may be an earlier checkpoint, and let the optimizer go."""
        self._pruner.apply()
        self._pruner.release(kwargs["optimizer"])


def _checkpoint(args: Any, step: int) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"

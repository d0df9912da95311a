"""The ONNX export tried before anything is trained: what cannot be written is known then, not hours later."""

from vlcompress.errors import VlcompressError
from vlcompress.export.trace import trace
from vlcompress.models.encoder.adapter import CHECKPOINT
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.untrained import tell_untrained


def try_checkpoint(experiment: Experiment) -> None:
    """Try the export, and say what the checkpoint scores before any training; see `try_export`, `tell_untrained`."""
    try_export(experiment)
    tell_untrained(experiment)


def try_export(experiment: Experiment) -> None:
    """Warn where the graph of a checkpoint's own architecture cannot be written; built-in ones are known to be.

    Nothing is refused: such a ticket can still be compiled, measured and served in PyTorch.
    """
    if experiment.recipe.model.size != CHECKPOINT:
        return
    family, config = experiment.family, experiment.config
    try:
        trace(family, family.build(config, experiment.train_task.head, seed=0).eval(), config)
    except VlcompressError as error:
        experiment.say(
            f"warning: `vlcompress export` will not write this model ({error}); compile, bench and serve --backend "
            "torch will run it"
        )

"""A Trainer of transformers that prunes while it trains, in mixed precision and with accumulated gradients.

``python -m tests.training.trained_by_trainer FOLDER`` runs it in one of several processes, as torchrun's variables say.
"""

import sys
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.training.small_bert import bert, lives, rows
from vlcompress.artefacts import identity
from vlcompress.training.pruner import Pruner
from vlcompress.training.trainer_callback import PrunerCallback


class Watch(TrainerCallback):  # type: ignore[misc]
    """Count what lives of the pruned weights after every step."""

    def __init__(self, pruner: Pruner) -> None:
        self.pruner, self.found, self.sparsities = pruner, list[int](), list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found.append(lives(kwargs["model"], self.pruner.masks))
        self.sparsities.append(self.pruner.sparsity)


def trained(
    folder: Path, every: int = 2, steps: int = 6, criterion: str = "gradient", *, resume: bool = False, **said: Any
) -> tuple[Any, Watch]:
    """Train and prune three levels, and give the model and what was watched."""
    model = bert()
    pruner = Pruner(model, schedule="linear:20", sparsity=0.6, criterion=criterion)
    watch = Watch(pruner)
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        bf16=True,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        max_steps=steps,
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        **{"save_strategy": "no", **said},
    )
    callbacks = [PrunerCallback(pruner, every), watch]
    trainer = Trainer(model=model, args=arguments, train_dataset=rows(32), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return model, watch


def main() -> None:
    """Write what this process found, and a hash of the weights that it ended with."""
    import os

    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    model, watch = trained(folder, ddp_backend="gloo")
    weights = {name: value.tolist() for name, value in model.state_dict().items()}
    summary = f"{watch.found} {watch.sparsities} {watch.pruner.masks.sha256()} {identity(weights)}"
    (folder / f"rank{rank}.txt").write_text(f"{os.environ['WORLD_SIZE']} {summary}")


if __name__ == "__main__":
    main()

"""How long a training takes on this machine, from a few of its steps: what `--dry-run` multiplies."""

import dataclasses
import time
from typing import Any

from vlcompress.tickets.experiment import Experiment, objective_of
from vlcompress.tickets.spec import Trial
from vlcompress.training.loop import train

STEPS = 4
"""Timed steps, after one that is not."""


def seconds_of_a_training(bench: Experiment) -> float:
    """Time some steps of a recipe's training and extend them to all; scoring is not counted.

    The weights are fresh: how long a step takes does not depend on what they are.
    """
    model = bench.family.build(bench.config, bench.train_task.head, seed=0).to(bench.compute.torch_device)
    objective = objective_of(bench, Trial(0))
    given: dict[str, Any] = {"compute": bench.compute, "lengths": bench.lengths}
    train(model, objective, dataclasses.replace(bench.hyper, steps=1), seed=0, **given)
    started = time.perf_counter()
    train(model, objective, dataclasses.replace(bench.hyper, steps=STEPS), seed=0, **given)
    return (time.perf_counter() - started) / STEPS * bench.hyper.steps

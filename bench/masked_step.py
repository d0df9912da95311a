"""What holding a mask costs a training step: dense and masked steps in turn, on the same batch.

`python -m bench.masked_step [--device cuda --dtype bf16 --size base] --out bench/results/training/masked_step.json`
"""

import argparse
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from bench.records import write_record
from vlcompress.devices import DTYPES, Compute, parse_compute, precision
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.models.registry import family_named
from vlcompress.pruning.mask import Masks
from vlcompress.recipe import default_recipe
from vlcompress.training.hyperparameters import Hyperparameters
from vlcompress.training.loop import MaskKeeper
from vlcompress.training.step import Stepper, optimizer_of, scaler_of

LABELS = 3129
"""Answers of VQA."""
WIDTH, WORDS, REGIONS = 2048, 20, 36


class Answering:
    """One batch of random inputs."""

    def __init__(self, family: Any, config: Any, batch: int) -> None:
        inputs = family.example_inputs(config, batch=batch, text=WORDS, regions=REGIONS, seed=0)
        self.family, self.made = family, Batch(inputs, {"answers": torch.rand(batch, LABELS)})

    def __len__(self) -> int:
        return len(self.made.targets["answers"])

    def batch(self, indices: Any, rng: torch.Generator) -> Batch:
        """Give the batch."""
        return self.made

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute VQA's loss."""
        return binary_cross_entropy_with_logits(self.family.logits(model, batch.inputs), batch.targets["answers"])


def steps_of(family: Any, size: str, batch: int, compute: Compute, *, masked: bool) -> Any:
    """Make a function that takes one step and waits for it."""
    recipe = default_recipe(family.name, "vqa", size).training
    hyper = Hyperparameters(
        1 << 20, batch, recipe.learning_rate, recipe.warmup, recipe.clip, recipe.weight_decay, 1.0, recipe.optimizer
    )
    config = family.config(size, vocab_size=30522, feature_dim=WIDTH)
    model = family.build(config, Head("answers", tuple(map(str, range(LABELS)))), seed=0).to(compute.torch_device)
    objective = Answering(family, config, batch)
    stepper = Stepper(
        model.train(), objective, optimizer_of(model, hyper, ""), hyper, compute, None, scaler_of(compute)
    )
    keeper = _keeper(family, model) if masked else None

    def step(number: int) -> None:
        stepper.learn([(objective.made, batch)], number)
        stepper.step(number)
        if keeper is not None:
            keeper.enforce(stepper.optimizer)
        if compute.on_gpu:
            torch.cuda.synchronize()

    return step


def _keeper(family: Any, model: nn.Module) -> MaskKeeper:
    """Make a mask of 70 %, drawn at random."""
    rng, parameters = torch.Generator().manual_seed(0), dict(model.named_parameters())
    names = family.prunable(model, family.policies[0]).names
    masks = {name: torch.rand(parameters[name].shape, generator=rng) > 0.7 for name in names}
    return MaskKeeper(model, Masks(masks))


def measure(family: str, size: str, batch: int, rounds: int, compute: Compute) -> dict[str, Any]:
    """Time steps in turn, and compare each masked one with the dense one beside it."""
    kinds = {name: steps_of(family_named(family), size, batch, compute, masked=name == "masked") for name in KINDS}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    clock = time.perf_counter if compute.on_gpu else time.process_time  # one thread: other processes do not count
    with precision(compute):
        for number in range(-2, rounds):
            for name in KINDS if number % 2 else reversed(KINDS):
                started = clock()
                kinds[name](max(number, 0))
                if number >= 0:
                    seconds[name].append(clock() - started)
    ratios = [masked / dense for dense, masked in zip(*(seconds[name] for name in KINDS), strict=True)]
    low, _, high = quantiles(ratios, n=4)
    times = {name: round(1000 * median(values), 3) for name, values in seconds.items()}
    return {"n": rounds, "median_ms": times, "ratio": round(median(ratios), 4), "quartiles": [low, high]}


KINDS = ("dense", "masked")


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="lxmert")
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(1)
    compute = parse_compute(said.device, said.dtype, training=True)
    found = measure(said.family, said.size, said.batch, said.rounds, compute)
    where = {"family": said.family, "size": said.size, "batch": said.batch, "computed_on": compute.describe()}
    flags = f"--family {said.family} --size {said.size} --batch {said.batch} --rounds {said.rounds}"
    command = f"python -m bench.masked_step {flags} --device {said.device} --dtype {said.dtype}"
    write_record(command, {**where, **found}, said.out)


if __name__ == "__main__":
    main()

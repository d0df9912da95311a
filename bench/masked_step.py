"""What holding the mask costs: a masked training step against a dense one, alternating in one process.

    python -m bench.masked_step [--size small] [--steps 60] [--threads 2] [--out bench/results/pruning/masked_step.json]

Both step the same model on the same batches with the same optimizer; the only difference is the call that zeroes pruned
weights and their moments. Steps alternate; the ratio is of the medians, with a bootstrap interval over pairs of steps.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from vlcompress.bench.environment import environment
from vlcompress.models.base import Head
from vlcompress.models.lxmert.adapter import LxmertFamily
from vlcompress.pruning.mask import Masks
from vlcompress.training.loop import MaskKeeper
from vlcompress.training.optimizers import BertAdam

TEXT, REGIONS, FEATURES, LABELS = 14, 36, 2048, 3129


def measure(size: str, steps: int, batch: int) -> dict[str, object]:
    """Time `steps` pairs of a dense and a masked step, in ms."""
    family = LxmertFamily()
    config = family.config(size, vocab_size=30522 if size == "base" else 100, feature_dim=FEATURES)
    head = Head("answers", tuple(str(label) for label in range(LABELS)))
    model = family.build(config, head, seed=0).train()
    inputs = family.example_inputs(config, batch=batch, text=TEXT, regions=REGIONS, seed=0)
    targets = torch.rand(batch, LABELS)
    optimizer = BertAdam(model.parameters(), lr=1e-5)
    rng = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    names = family.prunable(model, "bert-tickets").names
    masks = Masks({name: torch.rand(parameters[name].shape, generator=rng) > 0.7 for name in names})
    keeper = MaskKeeper(model, masks)
    times: dict[str, list[float]] = {"dense": [], "masked": []}
    for step in range(steps + 3):
        for kind in ("dense", "masked") if step % 2 else ("masked", "dense"):
            start = time.perf_counter()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(family.logits(model, inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if kind == "masked":
                keeper.enforce(optimizer)
            if step >= 3:  # the first steps allocate
                times[kind].append(1e3 * (time.perf_counter() - start))
    return {"size": size, "batch": batch, "prunable_weights": masks.total, "ms": times, **summary(times)}


def summary(times: dict[str, list[float]]) -> dict[str, object]:
    """Return medians, interquartile ranges, and the ratio with its 95 % bootstrap interval."""
    pairs = torch.tensor([times["dense"], times["masked"]], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    draws = torch.randint(pairs.shape[1], (2000, pairs.shape[1]), generator=rng)
    medians = pairs[:, draws].median(dim=2).values
    low, high = torch.quantile(medians[1] / medians[0], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    median = {name: statistics.median(values) for name, values in times.items()}
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    return {
        "median_ms": median,
        "iqr_ms": {name: cuts[2] - cuts[0] for name, cuts in quartiles.items()},
        "ratio": median["masked"] / median["dense"],
        "ratio_95": [low, high],
        "n": pairs.shape[1],
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    command = f"python -m bench.masked_step --size {arguments.size} --steps {arguments.steps} --batch {arguments.batch}"
    record = {"command": command, "environment": environment()}
    record |= measure(arguments.size, arguments.steps, arguments.batch)
    text = json.dumps(record, indent=2)
    print(json.dumps({name: value for name, value in record.items() if name != "ms"}, indent=2))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

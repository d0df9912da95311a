"""What is left of a dense model that is pruned once and not trained again, by criterion, pattern, sparsity and repair.

Beside the product's criteria two that it does not have: "obs" (w² / [H⁻¹]ⱼⱼ over the layer's output, what is lost once
the layer is mended; Hassibi and Stork, NeurIPS 1992), and "fisher-sigmoid", whose logits count by p (1 - p).
`python -m bench.post_training --home HOME --out FILE`; FILE is written after every cell.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from vlcompress.artefacts import dumps, write_file
from vlcompress.bench.environment import environment
from vlcompress.pruning.criterion import Criterion, Fisher, Ranking
from vlcompress.pruning.patterns import parse_pattern
from vlcompress.pruning.repair import repair
from vlcompress.recipe import default_recipe
from vlcompress.tickets.experiment import Experiment, criterion_of
from vlcompress.tickets.imp import pruned
from vlcompress.tickets.open_experiment import open_experiment
from vlcompress.tickets.store import TrainingResult
from vlcompress.training import calibration
from vlcompress.training.loop import evaluate

CRITERIA = ("magnitude", "gradient", "wanda", "obs", "fisher", "fisher-sigmoid")


def criterion(experiment: Experiment, dense: TrainingResult, name: str) -> Criterion:
    """Make a criterion of the product, or one of those that were tried."""
    tried: dict[str, Callable[[Experiment, TrainingResult], Criterion]] = {"obs": _obs, "fisher-sigmoid": _by_sigmoid}
    return tried[name](experiment, dense) if name in tried else criterion_of(experiment, dense, Ranking(name), 0)


def _obs(experiment: Experiment, dense: TrainingResult) -> Criterion:
    weights, scores = dense.weights(), {}
    for name, one in experiment.moments(dense).items():
        weight, inverse = weights[name], torch.cholesky_inverse(torch.linalg.cholesky(one.hessian))
        output = (weight @ one.hessian * weight).sum()
        scores[name] = weight.square() / inverse.diagonal() / output * bool(one.second.any())
    return Fisher(scores)


def _by_sigmoid(experiment: Experiment, dense: TrainingResult) -> Criterion:
    """Weigh a step of each logit by the root of p (1 - p), as binary cross entropy does."""
    family, plain = experiment.family, experiment.family.logits

    def weighed(model: Any, inputs: Any) -> torch.Tensor:
        logits = plain(model, inputs)
        chances = logits.detach().sigmoid()
        return logits * (chances * (1 - chances)).sqrt()

    family.logits = weighed  # type: ignore[method-assign]
    try:
        model = experiment.model_of(dense)
        return Fisher(
            calibration.fisher(model, family, calibration.drawn(experiment.train_task), experiment.prunable.names)
        )
    finally:
        del family.logits


def cells(
    experiment: Experiment, patterns: list[str], levels: list[float], names: list[str]
) -> Iterator[dict[str, Any]]:
    """Prune and score every combination."""
    dense = experiment.dense(0)
    yield {"dense": round(100 * dense.scores.mean, 2)}
    for name in names:
        ranked = criterion(experiment, dense, name)
        for pattern in patterns:
            for level in levels:
                masks = pruned(experiment, dense, experiment.keep_all(), level, parse_pattern(pattern), ranked)
                cell = {"criterion": name, "pattern": pattern, "sparsity": round(masks.sparsity, 4)}
                for form in ("kept", "repaired"):
                    model = experiment.model_of(dense)
                    if form == "repaired":
                        repair(model, masks, experiment.moments(dense))
                    else:
                        masks.apply(model)
                    cell[form] = round(100 * evaluate(model, experiment.score_task).mean, 2)
                yield cell


def main() -> None:
    """Score every cell that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--family", default="lxmert")
    parser.add_argument("--task", default="vqa")
    parser.add_argument("--patterns", nargs="+", default=["neuron+head", "unstructured", "block:16x16"])
    parser.add_argument("--levels", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    experiment = open_experiment(default_recipe(asked.family, asked.task, "small"), asked.home)
    found: list[dict[str, Any]] = []
    for cell in cells(experiment, asked.patterns, asked.levels, asked.criteria):
        found.append(cell)
        record = {"family": asked.family, "task": asked.task, "examples": calibration.EXAMPLES, "cells": found}
        write_file(asked.out, dumps({**record, "environment": environment()}))
        print(cell, flush=True)


if __name__ == "__main__":
    main()

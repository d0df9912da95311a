"""The rule by which measured timings decide how a layer runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vlcompress.devices import Compute
from vlcompress.kernels.backends import BACKENDS, SparseWeight, prepared
from vlcompress.sparse.timing import Call, Effort, Timing, compare, compare_in_graphs

MARGIN = 0.05
"""A sparse form must be at least this much faster than dense: below it, noise would decide."""

FINALISTS = 2
"""Sparse forms that are measured in full, after one round for each form."""


@dataclass(frozen=True)
class LayerChoice:
    """What was picked for a layer in one runtime, and from which numbers.

    Attributes:
        picked: "dense" or the name of a sparse form.
        why: one sentence for people.
        timings: every measured form by name, "dense" among them; empty where nothing was worth measuring.
    """

    picked: str
    why: str
    timings: Mapping[str, Timing] = field(default_factory=dict)

    @classmethod
    def untested(cls, why: str) -> "LayerChoice":
        """Stay dense without measuring."""
        return cls("dense", why)


def choose(timings: Mapping[str, Timing], margin: float = MARGIN) -> LayerChoice:
    """Pick the fastest form, dense unless another takes at most (1 - margin) of dense's time.

    Args:
        timings: by form name; must hold "dense".
        margin: in [0, 1).
    """
    dense = timings["dense"].us
    others = {name: timing.us for name, timing in timings.items() if name != "dense"}
    best = min(others, key=lambda name: others[name])
    ratio = dense / others[best]
    if others[best] <= (1 - margin) * dense:
        return LayerChoice(best, f"{best} is {ratio:.2f}x as fast as dense", timings)
    return LayerChoice("dense", f"the fastest sparse form, {best}, has only {ratio:.2f}x the speed of dense", timings)


def measure_and_choose(calls: Mapping[str, Call], effort: Effort) -> LayerChoice:
    """Measure forms side by side and pick one; the slower ones are dropped after a first round.

    Args:
        calls: by form name; must hold "dense".
        effort: how long to measure those that are left.
    """
    first = compare(calls, replace(effort, rounds=1))
    ranked = sorted((name for name in calls if name != "dense"), key=lambda name: first[name].us)
    finalists = {name: calls[name] for name in ("dense", *ranked[:FINALISTS])}
    timings = compare(finalists, effort)
    return replace(choose(timings), timings={**first, **timings})


def choose_backend(
    weight: SparseWeight, bias: Tensor | None, rows: int, compute: Compute, effort: Effort
) -> LayerChoice:
    """Measure every backend that can run a stored weight here, and pick one.

    Args:
        weight: [N, K], on the device and in the dtype of `compute`.
        bias: [N], likewise, or None.
        rows: rows M of the activations that it will see; 0 for a layer that never runs.
        compute: where it will run. On a GPU the products are timed in CUDA graphs, as they will run.
        effort: how long to measure.
    """
    if rows == 0:
        return LayerChoice.untested("this model's answers do not depend on the layer: it never runs")
    names, refusals = candidates(weight, compute)
    if not names:
        return LayerChoice.untested("; ".join(refusals))
    x = torch.randn(1, rows, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.values)
    runs = {name: prepared(name, weight, x.device, x.dtype) for name in ("dense", *names)}
    calls: dict[str, Call] = {name: lambda run=run: run(x, bias, "none") for name, run in runs.items()}  # type: ignore[misc]
    with torch.inference_mode():
        return choose(compare_in_graphs(calls)) if compute.on_gpu else measure_and_choose(calls, effort)


def candidates(weight: SparseWeight, compute: Compute) -> tuple[list[str], list[str]]:
    """List the sparse backends worth measuring for a weight, and why the others are not."""
    names, refusals = [], []
    for name, backend in BACKENDS.items():
        if name == "dense" or (name == "triton" and not compute.on_gpu):  # its interpreter is for tests
            continue
        why = backend.refusal(weight, compute.torch_device, compute.torch_dtype)
        names += [name] if why is None else []
        refusals += [why] if why is not None else []
    return names, refusals

"""Finding the global magnitude threshold at LXMERT-base size: our radix select against torch's global_unstructured.

    python -m bench.threshold [--rounds 5] [--out bench/results/pruning/threshold.json]

Both get the same weights of the 164 prunable linears (181.7 million weights) and prune 10 %. The masks must be equal
(the weights are made distinct) before any time is taken; the two alternate in one process. Memory is the growth of a
child process's peak over the weights, one child for each.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from vlcompress.bench.environment import environment
from vlcompress.pruning.allocation import Global
from vlcompress.pruning.criterion import Magnitude
from vlcompress.pruning.mask import Masks, prune
from vlcompress.pruning.pattern import Unstructured

SHAPES = [(768, 768)] * 116 + [(3072, 768)] * 24 + [(768, 3072)] * 24
AMOUNT = 0.1


def weights() -> dict[str, Tensor]:
    """Make LXMERT-base's prunable weights: distinct magnitudes of the whole float range that training leaves."""
    rng = torch.Generator().manual_seed(0)
    total = sum(rows * cols for rows, cols in SHAPES)
    ranks = torch.randperm(total, generator=rng)
    values = (ranks + 0x3A000000 - total // 2).to(torch.int32).view(torch.float32)  # consecutive floats: all distinct
    parts = values.split([rows * cols for rows, cols in SHAPES])
    return {f"w{index}": part.reshape(shape) for index, (part, shape) in enumerate(zip(parts, SHAPES, strict=True))}


def ours(tensors: dict[str, Tensor], masks: Masks) -> Masks:
    """Prune with the radix select."""
    return prune(tensors, masks, AMOUNT, pattern=Unstructured(), criterion=Magnitude(), allocation=Global())


def peer(layers: list[nn.Linear]) -> list[Tensor]:
    """Prune with torch; give its masks."""
    torch_prune.global_unstructured([(layer, "weight") for layer in layers], torch_prune.L1Unstructured, amount=AMOUNT)
    return [layer.weight_mask for layer in layers]


def as_layers(tensors: dict[str, Tensor]) -> list[nn.Linear]:
    """Wrap the same memory as modules, which is what torch prunes."""
    layers = []
    for weight in tensors.values():
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layers.append(layer)
    return layers


def unwrap(layers: list[nn.Linear]) -> None:
    """Take torch's masks off again."""
    for layer in layers:
        original = layer.weight_orig
        torch_prune.remove(layer, "weight")
        layer.weight = original


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def growth_mb(which: str) -> float:
    """Return by how many MB the peak of a fresh process grows over weights and keep-all masks."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_grow, (which,))


def _grow(which: str) -> float:
    tensors = weights()
    masks = Masks.keep_all(tensors)
    layers = as_layers(tensors)
    _trim()
    before = _resident_mb()
    peak = _PeakWatch()
    with peak:
        if which == "ours":
            ours(tensors, masks)
        else:
            peer(layers)
    return peak.mb - before


class _PeakWatch:
    """Sample the resident size every millisecond: the process's own peak counter holds the making of the weights."""

    def __enter__(self) -> None:
        import threading

        self.mb, self._stop = 0.0, threading.Event()

        def watch() -> None:
            while not self._stop.wait(0.001):
                self.mb = max(self.mb, _resident_mb())

        self._thread = threading.Thread(target=watch)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _trim() -> None:
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)


def measure(rounds: int) -> dict[str, object]:
    """Check that the masks are equal, then time both, alternating."""
    tensors = weights()
    masks = Masks.keep_all(tensors)
    layers = as_layers(tensors)
    equal = all(
        torch.equal(mask, theirs.bool())
        for mask, theirs in zip(ours(tensors, masks).values(), peer(layers), strict=True)
    )
    if not equal:
        raise SystemExit("the masks differ: no time is taken")
    unwrap(layers)
    times: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(rounds):
        times["ours"].append(seconds(lambda: ours(tensors, masks)))
        times["torch"].append(seconds(lambda: peer(layers)))
        unwrap(layers)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "weights": masks.total,
        "same_mask": equal,
        "seconds": times,
        "median_seconds": medians,
        "ratio": medians["torch"] / medians["ours"],
        "growth_mb": {name: growth_mb(name) for name in ("ours", "torch")},
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    record = {"command": "python -m bench.threshold", "environment": environment(), **measure(arguments.rounds)}
    text = json.dumps(record, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Times on a GPU: CUDA graphs, inputs that rotate through more memory than the L2 cache, providers in turn.

A call of a few microseconds is drowned by the host's launch; in a CUDA graph it is not. A graph holds the same call
on several copies of its inputs, so that no call finds its input in the cache unless it would in use. Providers take
turns within each round, so a change of the clocks meets all of them.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], object]

_cuda: Any = torch.cuda  # its classes are untyped

WARM_UP_CALLS = 3
ROUNDS = 15


@dataclass(frozen=True)
class GraphTiming:
    """Microseconds of one call.

    Attributes:
        median_us: median over the rounds.
        spread_us: 90th minus 10th percentile over the rounds.
        rounds: how many rounds.
    """

    median_us: float
    spread_us: float
    rounds: int


def copies_beyond_cache(bytes_per_call: int, device: torch.device) -> int:
    """Count the copies of a call's inputs that exceed twice the L2 cache, from 2 to 32."""
    cache = int(torch.cuda.get_device_properties(device).L2_cache_size)
    return max(2, min(32, -(-2 * cache // max(1, bytes_per_call))))


def capture(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """Capture the calls in order in a CUDA graph, each warmed up (and compiled) before."""
    stream: Any = _cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def interleaved(providers: Mapping[str, Sequence[Call]], rounds: int = ROUNDS) -> dict[str, GraphTiming]:
    """Time each provider's calls; every round runs each provider once."""
    graphs = {name: capture(calls) for name, calls in providers.items()}
    for graph in graphs.values():
        graph.replay()
    samples: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(rounds):
        for name, graph in graphs.items():
            samples[name].append(_replay_us(graph) / len(providers[name]))
    return {name: summarise(values) for name, values in samples.items()}


def summarise(samples_us: Sequence[float]) -> GraphTiming:
    """Take median and spread of samples."""
    ordered = sorted(samples_us)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.1, 0.9))
    return GraphTiming(statistics.median(ordered), high - low, len(ordered))


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (_cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000

"""What sparsity is worth on this machine, before anything is trained: random masks on a model of real size.

Each pattern at each sparsity is exported in every form, checked against PyTorch, and measured in turn with the dense
model in the same process. What it cannot tell is accuracy: that takes training.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlcompress.bench.advice import advice
from vlcompress.bench.break_even import break_even
from vlcompress.bench.environment import environment
from vlcompress.bench.profile_layers import measure_layers
from vlcompress.bench.profile_onnx import OnnxSubject, Opened
from vlcompress.bench.profile_torch import TorchSubject
from vlcompress.bench.random_masks import POLICY, check_sparsity
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.devices import CPU, Compute, precision
from vlcompress.errors import VlcompressError
from vlcompress.export.choose import Chooser
from vlcompress.models.base import Family, Head
from vlcompress.models.registry import family_named
from vlcompress.results import ModelBatch, ModelPoint, ModelProfile, ProfileResult
from vlcompress.sparse.compile import layer_rows, thread_count
from vlcompress.sparse.timing import Effort, interleave

Inputs = Mapping[str, Tensor]
Say = Callable[[str], None]


ANSWERS, WORDS, FEATURES, TEXT, REGIONS = 3129, 30522, 2048, 20, 36
"""VQA v2 with LXMERT: answers, word pieces, width of a region's features, words and regions of an example."""

CHOOSING = Effort(rounds=3, burst_s=0.003, warmup=1)
"""A form is chosen among a handful; the figures that are reported take more rounds."""

SLOW_S = 0.4
"""Calls that take longer are measured in fewer rounds."""


@dataclass(frozen=True)
class ProfileConfig:
    """What is asked.

    Attributes:
        model: a family's name.
        size: one of its sizes.
        patterns: as `read_pattern` gives them.
        sparsities: in (0, 1).
        batches: batch sizes.
        threads: of ONNX Runtime.
        compute: where PyTorch's forms are measured, and in what; float32 on the CPU leaves them out, since ONNX Runtime
            is faster there.
        provider: where ONNX Runtime's forms are, spelled out.
    """

    model: str = "lxmert"
    size: str = "base"
    patterns: tuple[str, ...] = ("block:192x16", "neuron+head")
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.9)
    batches: tuple[int, ...] = (1, 8)
    threads: int = 1
    compute: Compute = CPU
    provider: str = "cpu"


def profile(asked: ProfileConfig, say: Say) -> ProfileResult:
    """Measure what is asked.

    Args:
        asked: see `ProfileConfig`.
        say: tells progress.

    Returns:
        Layers, whole models, and advice.

    Raises:
        VlcompressError: a name, sparsity or batch size that is not possible, or a block that divides no weight.
        VerificationError: a form that computes something else than the masked model.
    """
    family = _family(asked)
    config = family.config(asked.size, vocab_size=WORDS, feature_dim=FEATURES)
    head = Head("answers", tuple(f"answer {number}" for number in range(ANSWERS)))
    model = family.build(config, head, seed=0).eval()
    inputs = {
        batch: family.example_inputs(config, batch=batch, text=TEXT, regions=REGIONS, seed=batch)
        for batch in asked.batches
    }
    with tempfile.TemporaryDirectory() as folder, thread_count(asked.threads):
        rows = layer_rows(family, model, family.prunable(model, POLICY).names, inputs[asked.batches[-1]])
        say(f"about {_minutes(family, model, asked)} for {len(asked.patterns) * len(asked.sparsities)} random prunings")
        chooser = Chooser(asked.threads, CHOOSING, asked.provider)
        layers = measure_layers(model, rows, asked.patterns, asked.sparsities, chooser, say)
        subject = OnnxSubject(family, config, model, Path(folder), chooser, rows)
        tuned = inputs[asked.batches[-1]]
        in_torch = None if asked.compute == CPU else TorchSubject(family, model, head, asked.compute, tuned, CHOOSING)
        with precision(asked.compute):
            models = _models(subject, in_torch, asked, inputs, say)
    return ProfileResult(environment(), asdict(asked), tuple(layers), tuple(models), tuple(advice(models, asked)))


def _models(
    subject: OnnxSubject,
    torch_subject: TorchSubject | None,
    asked: ProfileConfig,
    inputs: Mapping[int, Inputs],
    say: Say,
) -> list[ModelProfile]:
    """Measure whole models: for each pattern and form, its points by sparsity and batch size.

    Forms are compared with the dense model in their own runtime.
    """
    dense, torch_dense = subject.dense(), None if torch_subject is None else torch_subject.dense()
    found: dict[tuple[str, str], list[ModelPoint]] = {}
    for pattern in asked.patterns:
        for sparsity in asked.sparsities:
            say(f"{pattern} at {100 * sparsity:g} %: the whole model")
            forms = subject.forms(pattern, sparsity, inputs[min(inputs)])
            points = _points(sparsity, dense, forms, inputs)
            if torch_subject is not None and torch_dense is not None:
                points |= _points(sparsity, torch_dense, torch_subject.forms(pattern, sparsity), inputs)
            for form, point in points.items():
                found.setdefault((pattern, form), []).append(point)
    return [ModelProfile(*named, tuple(points), _break_even(points, asked.batches)) for named, points in found.items()]


def _points(
    sparsity: float, dense: Opened, forms: Mapping[str, Opened], inputs: Mapping[int, Inputs]
) -> dict[str, ModelPoint]:
    """Measure the forms of one pruning side by side with dense."""
    batches = {str(batch): _race({"dense": dense, **forms}, samples, batch) for batch, samples in inputs.items()}
    return {
        form: ModelPoint(
            sparsity, round(opened.load_s, 2), opened.nbytes, {batch: timed[form] for batch, timed in batches.items()}
        )
        for form, opened in forms.items()
    }


def _race(forms: Mapping[str, Opened], inputs: Inputs, batch: int) -> dict[str, ModelBatch]:
    calls = {form: opened.bind(inputs) for form, opened in forms.items()}
    start = time.perf_counter()
    calls["dense"]()
    slow = time.perf_counter() - start > SLOW_S
    bursts = interleave(calls, Effort(rounds=3 if slow else 7, burst_s=0.0 if slow else 0.05, warmup=1))
    dense = bursts.pop("dense")
    dense_ms = latency(dense, batch).p50_ms
    return {
        form: ModelBatch(**vars(latency(rounds, batch)), dense_ms=dense_ms, speedup=paired_ratio(dense, rounds))
        for form, rounds in bursts.items()
    }


def _break_even(points: Sequence[ModelPoint], batches: Sequence[int]) -> dict[str, float | None]:
    found = {}
    for batch in map(str, batches):
        dense = float(np.median([point.batches[batch].dense_ms for point in points]))
        times = {point.sparsity: dense / point.batches[batch].speedup.value for point in points}
        found[batch] = break_even(dense, times)
    return found


def _minutes(family: Family, model: nn.Module, asked: ProfileConfig) -> str:
    """Estimate the time from one pass of the model: fixed work for each pruning, and passes for each measurement."""
    inputs = family.example_inputs(
        family.config(asked.size, vocab_size=WORDS, feature_dim=FEATURES), batch=1, text=TEXT, regions=REGIONS, seed=0
    )
    start = time.perf_counter()
    with torch.inference_mode():
        family.logits(model, inputs)
        family.logits(model, inputs)
    one = (time.perf_counter() - start) / 2
    weights = sum(parameter.numel() for parameter in model.parameters()) / 2e8
    cases = len(asked.patterns) * len(asked.sparsities)
    passes = sum(batch * (14 if batch * one > SLOW_S else 25) for batch in asked.batches)
    seconds = (15 + 12 * cases) * weights + cases * passes * one
    return f"{max(1, round(seconds / 60))} min" if seconds > 45 else f"{round(seconds)} s"


def _family(asked: ProfileConfig) -> Family:
    family = family_named(asked.model)
    for sparsity in asked.sparsities:
        if not 0 < sparsity < 1:
            raise VlcompressError(f"sparsity {sparsity:g} is out of range: give shares between 0 and 1, as 0.5,0.7")
        for pattern in asked.patterns:
            check_sparsity(pattern, sparsity)
    for batch in asked.batches:
        if batch < 1:
            raise VlcompressError(f"batch size {batch} is out of range: give whole numbers from 1 on, as 1,8")
    return family

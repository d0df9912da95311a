"""What is compared: a model in one form and one runtime, as a function from inputs to scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vlcompress.bench.memory import Make
from vlcompress.export.parity import Bound
from vlcompress.export.runtime import open_session
from vlcompress.export.verify import feed
from vlcompress.models.base import Family, inputs_for
from vlcompress.tasks.base import Answer, torch_predictor

Inputs = Mapping[str, Tensor]
Scores = npt.NDArray[np.float32]
Bind = Callable[[Inputs], Callable[[], Scores]]
"""Takes inputs once (outside the clock) and gives the call that is timed: scores float32 [batch, labels]."""


@dataclass(frozen=True)
class Variant:
    """One row of the benchmark.

    Attributes:
        name: "dense", "masked", "compiled", "onnx dense", "onnx compiled".
        bind: see `Bind`.
        truth: name of the variant whose scores it must reproduce; its own name where it is the truth.
        nbytes: size of its weights on disk; None if it has no file.
        make: loads it in another process to measure memory; None to leave memory out.
        bound: what its scores may differ by from its truth's; None for what the benchmark allows.
    """

    name: str
    bind: Bind
    truth: str
    nbytes: int | None = None
    make: Make | None = None
    bound: Bound | None = None


def torch_variant(
    name: str,
    model: nn.Module,
    answer: Answer,
    *,
    truth: str | None = None,
    file: Path | None = None,
    make: Make | None = None,
) -> Variant:
    """Make a variant of a PyTorch model (dense, masked or compiled).

    Args:
        name: of the variant.
        model: on its device and in its dtype, for which inputs are prepared.
        answer: runs it.
        truth: the variant that it must agree with; itself by default.
        file: its weights on disk.
        make: see `Variant`.
    """
    return Variant(name, lambda inputs: bind_torch(model, answer, inputs), truth or name, _size(file), make)


def onnx_variant(
    name: str,
    file: Path,
    *,
    truth: str,
    threads: int,
    provider: str = "cpu",
    make: Make | None = None,
    bound: Bound | None = None,
) -> Variant:
    """Make a variant of an exported file in ONNX Runtime, opened as its manifest says is fastest.

    Args:
        name: of the variant.
        file: model.onnx.
        truth: the variant that it must agree with.
        threads: threads of the session.
        provider: where it runs, spelled out.
        make: see `Variant`.
        bound: likewise.

    Raises:
        VlcompressError: no such file, or not a model.
    """
    session = open_session(file, threads=threads, provider=provider)

    def bind(inputs: Inputs) -> Callable[[], Scores]:
        arrays = feed(session, inputs)
        return lambda: session.run(["logits"], arrays)[0]

    return Variant(name, bind, truth, _size(file), make, bound)


def bind_torch(model: nn.Module, answer: Answer, inputs: Inputs) -> Callable[[], Scores]:
    """Make the call that runs a PyTorch model on fixed inputs, which are moved and cast outside the clock.

    Scores come back to the CPU, as they do from ONNX Runtime: a call ends when the device has finished.
    """
    placed = inputs_for(model, inputs)

    def call() -> Scores:
        scores: Scores = answer(placed).numpy()
        return scores

    return call


def make_onnx(file: Path, inputs: Inputs, threads: int) -> Callable[[], Scores]:
    """Open a file and give its call, in the process that measures memory (use it in a `functools.partial`)."""
    return onnx_variant("", file, truth="", threads=threads).bind(inputs)


def make_torch(load: Callable[[], tuple[Family, nn.Module]], inputs: Inputs, threads: int) -> Callable[[], Scores]:
    """Load a model and give its call, in the process that measures memory (use it in a `functools.partial`).

    Args:
        load: reads the model from disk; importable, as `bench.memory.Make`.
        inputs: what to run it on.
        threads: threads of PyTorch.
    """
    torch.set_num_threads(threads)
    family, model = load()
    return bind_torch(model, torch_predictor(family, model), inputs)


def _size(file: Path | None) -> int | None:
    return None if file is None else file.stat().st_size

"""How fast tickets are in stock ONNX Runtime: each compiled and exported as `vlcompress compile` and `export` do it.

All of them are measured in turn in one process, beside the dense model, with one thread. Nothing of it is kept: what is
chosen for each layer, and how fast it is, depends on how quiet the machine is, so it is measured anew each time.

What every speed is compared with has to be right: one session of a file was measured 15 % slower than another of the
same file, by where its weights lie in memory, and a wrong setting costs the dense model 30 %. So that is opened four
times, before and after the tickets, with and without SkipLayerNormFusion, and the fastest session counts.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from vlcompress.bench.environment import environment
from vlcompress.bench.harness import measure_openings
from vlcompress.bench.statistics import latency, paired_ratio
from vlcompress.errors import VlcompressError
from vlcompress.export.manifest import ExportManifest
from vlcompress.export.onnx import export_onnx
from vlcompress.export.runtime import open_session
from vlcompress.export.verify import feed
from vlcompress.pruning.pattern import Pattern
from vlcompress.results import Latency, Ratio
from vlcompress.sparse.compile import compile_model
from vlcompress.sparse.timing import Effort
from vlcompress.studies.base import Json
from vlcompress.tasks.base import Task
from vlcompress.tasks.pretraining_task import nothing_to_answer
from vlcompress.tickets.experiment import Experiment
from vlcompress.tickets.models import samples
from vlcompress.tickets.store import TrainingResult
from vlcompress.training.checkpoint import restore

BATCHES = (1, 32)
TUNED_FOR = 32
"""The batch size that layers are chosen for, as `vlcompress export` does."""
THREADS = 1
EFFORT = Effort(rounds=15, burst_s=0.05, warmup=3)
QUICK = Effort(rounds=1, burst_s=0.0, warmup=0)
"""For what `compile` chooses in PyTorch: the file is written in forms that the export measures by itself."""

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class FileBatch(Latency):
    """A file at one batch size, and how many times faster than dense it is."""

    speedup: Ratio


@dataclass(frozen=True)
class FileSpeed:
    """An exported file: its bytes, the graph that was picked, its packed layers, and its speed by batch size."""

    bytes: int
    picked: str
    lowered: int
    batches: Mapping[str, FileBatch]


@dataclass(frozen=True)
class NotExported:
    """Why a ticket could not be exported."""

    failed: str


@dataclass(frozen=True)
class Speeds:
    """The dense model and tickets by name, measured side by side."""

    threads: int
    environment: Json
    dense: FileSpeed
    tickets: Mapping[str, FileSpeed | NotExported]


@dataclass(frozen=True)
class MeasuredTicket:
    """A ticket to measure.

    Attributes:
        name: of its row.
        bench: that it was trained on.
        trained: weights and mask.
        pattern: that it was pruned by.
    """

    name: str
    bench: Experiment
    trained: TrainingResult
    pattern: Pattern


def measure_tickets(
    bench: Experiment, dense: TrainingResult, tickets: Sequence[MeasuredTicket], *, effort: Effort = EFFORT
) -> Speeds:
    """Export the dense model and every ticket (checked before anything is timed), and measure them side by side.

    Args:
        bench: of the dense model.
        dense: its training.
        tickets: of the same task and size.
        effort: how long to measure each batch size.

    Raises:
        VlcompressError: a task without answers, or a dense model that cannot be exported.
    """
    if bench.train_task.head.kind == "pretraining":
        raise nothing_to_answer()
    with tempfile.TemporaryDirectory() as folder:
        files = {"dense": _export(bench, dense, None, Path(folder) / "dense")}
        failed: dict[str, NotExported] = {}
        for number, one in enumerate(tickets):
            try:
                files[one.name] = _export(one.bench, one.trained, one.pattern, Path(folder) / str(number))
            except VlcompressError as error:
                failed[one.name] = NotExported(str(error))
        rows = _race(files, _inputs(bench), effort)
    return Speeds(THREADS, environment(), rows.pop("dense"), {**rows, **failed})


def _export(
    bench: Experiment, trained: TrainingResult, pattern: Pattern | None, folder: Path
) -> tuple[Path, ExportManifest]:
    """Write a training as ONNX, compiled where it has a pattern; give the file and its manifest."""
    head, inputs = bench.train_task.head, samples(_task(bench), TUNED_FOR, 2)
    model: nn.Module = bench.family.build(bench.config, head, seed=0)
    restore(model, trained.weights())
    model.eval()
    if pattern is not None:
        bench.say(f"exporting {pattern} at {100 * trained.masks().sparsity:.0f} %")
        block, masks = pattern.storage, dict(trained.masks())
        model, _ = compile_model(bench.family, model, masks, block, inputs=inputs[0], threads=THREADS, effort=QUICK)
    manifest = export_onnx(bench.family, model, folder, inputs, config=bench.config, head=head, threads=THREADS)
    return folder / "model.onnx", manifest


def _inputs(bench: Experiment) -> dict[int, Inputs]:
    return {batch: samples(_task(bench), batch)[0] for batch in BATCHES}


def _task(bench: Experiment) -> Task:
    """Take the examples to score as batches, which every task but pre-training has."""
    return cast(Task, bench.score_task)


def _race(
    files: Mapping[str, tuple[Path, ExportManifest]], inputs: Mapping[int, Inputs], effort: Effort
) -> dict[str, FileSpeed]:
    """Measure every file in turn with the others, as its manifest advises to open it; dense as is best for it."""
    tickets = {name: found for name, found in files.items() if name != "dense"}
    dense = [_open(files["dense"][0], skip=skip) for skip in (False, True)]
    sessions = {name: [_open(file)] for name, (file, _) in tickets.items()}
    sessions["dense"] = dense + [_open(files["dense"][0], skip=skip) for skip in (False, True)]
    batches = {batch: _batch(sessions, one, batch, effort) for batch, one in inputs.items()}
    return {
        name: FileSpeed(
            manifest.bytes.model,
            manifest.speed.picked,
            sum(layer.form != "dense" for layer in manifest.layers),
            {str(batch): found[name] for batch, found in batches.items()},
        )
        for name, (_, manifest) in files.items()
    }


def _open(file: Path, *, skip: bool | None = None) -> Any:
    return open_session(file, threads=THREADS, disable_skip_layer_norm=skip, native="off")


def _batch(sessions: Mapping[str, Sequence[Any]], inputs: Inputs, batch: int, effort: Effort) -> dict[str, FileBatch]:
    """Time each file and its ratio to dense, each by the fastest of its sessions."""
    calls = {name: [partial(one.run, None, feed(one, inputs)) for one in opened] for name, opened in sessions.items()}
    bursts = measure_openings(calls, effort)
    return {
        name: FileBatch(**vars(latency(rounds, batch)), speedup=paired_ratio(bursts["dense"], rounds))
        for name, rounds in bursts.items()
    }

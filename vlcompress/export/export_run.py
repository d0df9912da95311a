"""From a run's compiled model to ``onnx/``, and its dense model to ``onnx-dense/`` for comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import vlcompress
from vlcompress.data.published_tokenizer import words_path
from vlcompress.devices import CPU, Compute, precision
from vlcompress.errors import VlcompressError
from vlcompress.export.manifest import ExportManifest, load_manifest
from vlcompress.export.onnx import Style, export_onnx
from vlcompress.export.parity import BOUNDS, bound_in, looser
from vlcompress.export.runtime import open_exported, placement
from vlcompress.export.verification import VerifyResult
from vlcompress.export.verify import Gate, feed
from vlcompress.export.verify import run as run_session
from vlcompress.models.registry import FAMILIES
from vlcompress.sparse.compile import Compiled, load_compiled
from vlcompress.sparse.timing import EFFORT, Effort
from vlcompress.tasks.base import Answer, Task, torch_predictor
from vlcompress.tickets.models import dense_model, samples, score_task
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import load_ticket

PARITY_SAMPLES = 64
"""Real examples, at least, that the exported file must answer as the PyTorch model does."""

SCORED_AT_ONCE = 256
"""Examples in a batch when a whole split is scored."""


def artefact_folder(run: Run, style: Style) -> Path:
    """Name the folder of a run's file of a precision: ``onnx``, ``onnx-fp16`` or ``onnx-int8``, side by side."""
    return run.folder / ("onnx" if style.precision == "fp32" else f"onnx-{style.precision}")


def export_run(
    run: Run,
    *,
    batch: int = 32,
    threads: int = 1,
    effort: Effort = EFFORT,
    style: Style | None = None,
    say: Callable[[str], None] = print,
) -> ExportManifest:
    """Export the compiled model; nothing is written unless it answers as the PyTorch model does.

    Args:
        run: a run whose ticket was compiled.
        batch: the batch size to be fast at.
        threads: threads of ONNX Runtime while measuring.
        effort: how long to measure each layer.
        style: how to write the file; by default float32 for the CPU.
        say: told if the model was compiled for another device.

    Raises:
        VlcompressError: the ticket has not been compiled, or a file is damaged.
        VerificationError: parity failed, or the task's score dropped.
    """
    style = style or Style()
    compiled, ticket = compiled_of(run, CPU, say), load_ticket(run.ticket)
    task = score_task(run, ticket)
    gated = bool(BOUNDS[style.precision].score)
    return export_onnx(
        compiled.family,
        compiled.model,
        artefact_folder(run, style),
        samples(task, batch, _batches(batch)),
        config=compiled.config,
        head=compiled.head,
        threads=threads,
        effort=effort,
        style=style,
        score=lambda session: _score(task, session),
        reference=_reference(task, compiled) if gated else None,
        origin={
            "recipe_sha256": ticket.document["recipe_sha256"],
            "vlcompress": vlcompress.__version__,
            "task": run.recipe().data.task,
        },
        beside=_words(run),
    )


def verify_file(
    file: Path,
    run: Run | None = None,
    *,
    batch: int = 32,
    threads: int = 1,
    compute: Compute = CPU,
    provider: str | None = None,
    say: Callable[[str], None] = print,
) -> VerifyResult:
    """Repeat the gate that an exported file passed: its hash, the samples, random shapes, and the score on the task.

    Args:
        file: model.onnx of an exported artefact.
        run: the run that it was exported from; by default the one in whose folder it lies.
        batch: examples at a time.
        threads: threads of ONNX Runtime.
        compute: where PyTorch computes what the file is compared with, and in what.
        provider: where the file runs, spelled out; None takes the one that it was exported for.
        say: told what is worth knowing.

    Raises:
        VlcompressError: no manifest beside the file, an altered file, or no such run.
        VerificationError: the file answers otherwise than the compiled model.
    """
    if not file.is_file():
        raise VlcompressError(f"no ONNX model at '{file}': give a file that `vlcompress export` wrote")
    manifest = load_manifest(file.parent)
    chosen = run or Run(file.resolve().parent.parent)
    compiled, ticket = compiled_of(chosen, compute, say), load_ticket(chosen.ticket)
    if manifest.recipe_sha256 != ticket.document["recipe_sha256"]:
        raise VlcompressError(f"'{file}' was not exported from run '{chosen.folder}': give its own with --run")
    task, bound = score_task(chosen, ticket), looser(BOUNDS[manifest.precision], bound_in(compute))
    batches = samples(task, batch, _batches(batch))
    check = Gate(compiled.family, compiled.model, batches, compiled.config, bound, file.parent)
    session, provider = open_exported(file, provider, threads=threads, say=say)
    with precision(compute):
        parities = check.parities(session)
        reference = _reference(task, compiled) if bound.score else None
    return VerifyResult(
        file=str(file),
        precision=manifest.precision,
        provider=provider,
        computed_on=compute.describe(),
        parity=parities,
        task_score=check.task_score(session, lambda opened: _score(task, opened), reference),
        placement=None if provider == "cpu" else placement(file, provider, feed(session, batches[0])),
    )


def session_answer(session: Any) -> Answer:
    """Let an opened file answer a task."""
    return lambda inputs: torch.from_numpy(run_session(session, inputs))


def _words(run: Run) -> dict[str, str]:
    """Read the vocabulary, a file for the exported folder; nothing for a task without words."""
    path = words_path(run.ticket)
    return {path.name: path.read_text(encoding="utf-8")} if path.is_file() else {}


def _batches(batch: int) -> int:
    return -(-PARITY_SAMPLES // batch)


def compiled_of(run: Run, compute: Compute = CPU, say: Callable[[str], None] = print) -> Compiled:
    """Load a run's compiled model, to run on a device and in a dtype; `say` is told if that was not the plan.

    Raises:
        VlcompressError: it was not compiled.
    """
    folder = run.folder / "compiled"
    if not (folder / "plan.json").is_file():
        raise VlcompressError(f"run '{run.folder}' has no compiled model: run `vlcompress compile` first")
    compiled = load_compiled(folder, {name: family() for name, family in FAMILIES.items()}, compute)
    if compiled.notice is not None:
        say(compiled.notice)
    return compiled


def _score(task: Task, session: Any) -> float:
    """Score a session on the task, in [0, 1]."""
    return task.measure(session_answer(session), batch=SCORED_AT_ONCE).mean


def _reference(task: Task, compiled: Compiled) -> float:
    """Score the compiled model on the task."""
    return task.measure(torch_predictor(compiled.family, compiled.model), batch=SCORED_AT_ONCE).mean


def export_dense(run: Run, *, batch: int = 32, threads: int = 1) -> Path:
    """Export the dense model that the ticket came from, unless that was done; give the file."""
    folder = run.folder / "onnx-dense"
    if not (folder / "manifest.json").is_file():
        ticket = load_ticket(run.ticket)
        family, model = dense_model(run, ticket)
        inputs = samples(score_task(run, ticket), batch, 2)
        export_onnx(family, model, folder, inputs, config=ticket.config, head=ticket.head, threads=threads)
    return folder / "model.onnx"

"""From a run's compiled model to ``onnx/``, and its dense model to ``onnx-dense/`` for comparison."""

from pathlib import Path

import vlcompress
from vlcompress.artefacts import Json
from vlcompress.errors import VlcompressError
from vlcompress.export.onnx import export_onnx
from vlcompress.models.registry import FAMILIES
from vlcompress.sparse.compile import load_compiled
from vlcompress.sparse.timing import EFFORT, Effort
from vlcompress.tickets.models import dense_model, samples, score_task
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import load_ticket

PARITY_SAMPLES = 64
"""Real examples that the exported file must answer as the PyTorch model does."""


def export_run(run: Run, *, batch: int = 32, threads: int = 1, effort: Effort = EFFORT) -> Json:
    """Export the compiled model; nothing is written unless it answers as the PyTorch model does.

    Args:
        run: a run whose ticket was compiled.
        batch: the batch size to be fast at.
        threads: threads of ONNX Runtime while measuring.
        effort: how long to measure each layer.

    Returns:
        The manifest.

    Raises:
        VlcompressError: the ticket has not been compiled, or a file is damaged.
        VerificationError: parity failed.
    """
    folder = run.folder / "compiled"
    if not (folder / "plan.json").is_file():
        raise VlcompressError(f"run '{run.folder}' has no compiled model: run `vlcompress compile` first")
    compiled = load_compiled(folder, {name: family() for name, family in FAMILIES.items()})
    ticket = load_ticket(run.ticket)
    task = score_task(run, ticket)
    return export_onnx(
        compiled.family,
        compiled.model,
        run.folder / "onnx",
        samples(task, batch, max(1, PARITY_SAMPLES // batch)),
        config=compiled.config,
        head=compiled.head,
        threads=threads,
        effort=effort,
        extra={"recipe_sha256": ticket.document["recipe_sha256"], "vlcompress": vlcompress.__version__},
    )


def export_dense(run: Run, *, batch: int = 32, threads: int = 1) -> Path:
    """Export the dense model that the ticket came from, unless that was done; give the file."""
    folder = run.folder / "onnx-dense"
    if not (folder / "manifest.json").is_file():
        ticket = load_ticket(run.ticket)
        family, model = dense_model(run, ticket)
        inputs = samples(score_task(run, ticket), batch, 2)
        export_onnx(family, model, folder, inputs, config=ticket.config, head=ticket.head, threads=threads)
    return folder / "model.onnx"

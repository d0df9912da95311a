"""A ticket's predictions for a split, in the file that the benchmark wants handed in."""

from pathlib import Path
from typing import Any

import torch

from vlcompress.artefacts import write_file
from vlcompress.errors import VlcompressError
from vlcompress.tasks.base import asking
from vlcompress.tasks.pretraining_task import nothing_to_answer
from vlcompress.tasks.registry import task_of
from vlcompress.tickets.models import split_to_predict, ticket_model
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import load_ticket


def predict(run: Run, split: str, out: Path, *, device: torch.device, batch: int = 256) -> dict[str, Any]:
    """Answer every example of a split with the run's ticket and write the submission, whole or not at all.

    Args:
        run: a finished run.
        split: of the run's data, with or without published answers.
        out: the file to write; its ending must be the benchmark's.
        device: where to compute.
        batch: examples at a time.

    Returns:
        What was written: "file", "task", "split", "examples", and "score" where the answers are published.

    Raises:
        VlcompressError: no such split, another ending, a task without predictions, disk full.
    """
    ticket = load_ticket(run.ticket)
    task_name = run.recipe().data.task
    kind = task_of(ticket.family, task_name)
    if not kind.suffix:
        raise nothing_to_answer()
    if out.suffix != kind.suffix:
        raise VlcompressError(f"'{out}' does not end in {kind.suffix}, which is what {kind.title} is handed in as")
    task = split_to_predict(run, ticket, split)
    family, model = ticket_model(ticket)
    answer = asking(family, model.to(device))
    write_file(out, task.submission(answer, batch=batch))
    document: dict[str, Any] = {"file": str(out), "task": task_name, "split": split, "examples": len(task)}
    if not task.hidden:
        found = task.measure(answer, batch=batch)
        document |= {"metric": task.metric, "score": found.mean, "figures": dict(found.figures)}
    return document

"""A run's predictions for a split, in the file that the benchmark wants handed in, from any form of its ticket."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vlcompress.artefacts import write_file
from vlcompress.devices import CPU, Compute, precision
from vlcompress.errors import VlcompressError
from vlcompress.export.export_run import compiled_of, session_answer
from vlcompress.export.runtime import open_exported
from vlcompress.results import absent
from vlcompress.sparse.runner import fast_answer
from vlcompress.tasks.base import Answer
from vlcompress.tasks.pretraining_task import nothing_to_answer
from vlcompress.tasks.registry import task_of
from vlcompress.tickets.models import split_to_predict, ticket_model
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import Ticket, load_ticket

Form = Literal["masked", "compiled", "onnx"]


@dataclass(frozen=True)
class Prediction:
    """What was written: `examples` of a split, by which form and where it ran; scored where answers are published."""

    file: str
    task: str
    split: str
    examples: int
    form: Form
    computed_on: Mapping[str, str]
    metric: str | None = absent()
    score: float | None = absent()
    figures: Mapping[str, float] | None = absent()


def predict(
    run: Run,
    split: str,
    out: Path,
    *,
    form: Form = "masked",
    compute: Compute = CPU,
    batch: int = 256,
    say: Callable[[str], None] = print,
) -> Prediction:
    """Answer every example of a split and write the submission, whole or not at all.

    Args:
        run: a finished run.
        split: of the run's data, with or without published answers.
        out: the file to write; its ending must be the benchmark's.
        form: what answers: the ticket as it was trained, the compiled model, or the exported file.
        compute: where PyTorch computes, and in what; an exported file runs on the provider that it was exported for.
        batch: examples at a time.
        say: told of what has no effect.

    Raises:
        VlcompressError: no such split, another ending, a task without predictions, a form that was not made, disk full.
    """
    ticket = load_ticket(run.ticket)
    task_name = run.recipe().data.task
    kind = task_of(ticket.family, task_name)
    if not kind.suffix:
        raise nothing_to_answer()
    if out.suffix != kind.suffix:
        raise VlcompressError(f"'{out}' does not end in {kind.suffix}, which is what {kind.title} is handed in as")
    answer, computed_on = _answer(run, ticket, form, compute, say)
    task = split_to_predict(run, ticket, split)
    written = Prediction(str(out), task_name, split, len(task), form, computed_on)
    with precision(compute):
        write_file(out, task.submission(answer, batch=batch))
        if task.hidden:
            return written
        found = task.measure(answer, batch=batch)
    return replace(written, metric=task.metric, score=found.mean, figures=dict(found.figures))


def _answer(
    run: Run, ticket: Ticket, form: Form, compute: Compute, say: Callable[[str], None]
) -> tuple[Answer, Mapping[str, str]]:
    """Open what answers, and say where it computes."""
    if form == "onnx":
        if compute != CPU:
            say(f"warning: device {compute.device} and dtype {compute.dtype} have no effect on an exported file")
        session, provider = open_exported(run.folder / "onnx" / "model.onnx", None, say=say)
        return session_answer(session), {"provider": provider}
    if form == "compiled":
        compiled = compiled_of(run, compute, say)
        return fast_answer(compiled.family, compiled.model, compiled.head, compute), compute.describe()
    family, model = ticket_model(ticket)
    return fast_answer(family, model, ticket.head, compute), compute.describe()

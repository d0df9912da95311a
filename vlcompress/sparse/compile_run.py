"""From a run's ticket to ``compiled/``."""

from typing import Any

import vlcompress
from vlcompress.devices import CPU, Compute
from vlcompress.errors import unknown
from vlcompress.kernels.backends import BACKENDS
from vlcompress.sparse.compile import AUTO, pack_model, place, save_compiled
from vlcompress.sparse.plan import CompilePlan
from vlcompress.sparse.timing import EFFORT, Effort
from vlcompress.tickets.models import samples, score_task, ticket_model
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import form_of, load_ticket


def compile_run(
    run: Run,
    *,
    batch: int = 32,
    threads: int = 1,
    compute: Compute = CPU,
    backend: str = AUTO,
    effort: Effort = EFFORT,
) -> CompilePlan:
    """Compile a run's ticket: shrink, pack, choose each layer's faster form by measurement, check, write ``compiled/``.

    Args:
        run: a finished run.
        batch: the batch size to be fast at, filled with real samples.
        threads: threads while measuring.
        compute: the device and dtype that the model will run in; the file stays float32.
        backend: "auto" measures; a name takes that backend for every packed layer.
        effort: how long to measure each layer.

    Raises:
        VlcompressError: the ticket or its data is gone or damaged, or a backend that is unknown or cannot run a layer.
        VerificationError: the compiled model computes something else.
    """
    if backend not in (AUTO, *BACKENDS):
        raise unknown("backend", backend, (AUTO, *BACKENDS))
    ticket = load_ticket(run.ticket)
    family, model = ticket_model(ticket)
    (inputs,) = samples(score_task(run, ticket), batch)
    pattern = ticket.recipe.pruning.pattern
    packed = pack_model(family, model, dict(ticket.masks), pattern.storage, inputs)
    tensors = packed.model.state_dict()  # before it is cast to what it will run in
    _, plan = place(packed, family, model, threads, compute, backend, effort)
    extra: dict[str, Any] = {
        "recipe_sha256": ticket.document["recipe_sha256"],
        "pattern": str(pattern),
        "sparsity": ticket.masks.sparsity,
        "vlcompress": vlcompress.__version__,
    }
    described: dict[str, Any] = {
        "family": family,
        "config": ticket.config,
        "head": ticket.head,
        "form": form_of(family, ticket),
    }
    save_compiled(run.folder / "compiled", tensors, plan, extra=extra, **described)
    return plan

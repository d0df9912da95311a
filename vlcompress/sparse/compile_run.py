"""From a run's ticket to ``compiled/``."""

import math
from typing import Any

import vlcompress
from vlcompress.pruning.mixture import Mixture
from vlcompress.pruning.pattern import Block as BlockPattern
from vlcompress.pruning.pattern import parse_pattern
from vlcompress.sparse.compile import compile_model, save_compiled
from vlcompress.sparse.formats import Block
from vlcompress.sparse.plan import Plan
from vlcompress.sparse.timing import EFFORT, Effort
from vlcompress.tickets.models import samples, score_task, ticket_model
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import load_ticket


def block_of(pattern: str) -> Block:
    """Give rows and columns that every block of a pattern divides: (1, 1) where there are no blocks."""
    parsed = parse_pattern(pattern)
    parts = [part for _, part in parsed.parts] if isinstance(parsed, Mixture) else [parsed]
    blocks = [part for part in parts if isinstance(part, BlockPattern)]
    return math.lcm(*(block.rows for block in blocks)), math.lcm(*(block.cols for block in blocks))


def compile_run(run: Run, *, batch: int = 32, threads: int = 1, device: str = "cpu", effort: Effort = EFFORT) -> Plan:
    """Compile a run's ticket: shrink, pack, choose each layer's faster form by measurement, check, write ``compiled/``.

    Args:
        run: a finished run.
        batch: the batch size to be fast at, filled with real samples.
        threads: threads while measuring.
        device: where to measure.
        effort: how long to measure each layer.

    Raises:
        VlcompressError: the ticket or its data is gone or damaged.
        VerificationError: the compiled model computes something else.
    """
    ticket = load_ticket(run.ticket)
    family, model = ticket_model(ticket)
    (inputs,) = samples(score_task(run, ticket), batch)
    pattern = ticket.document["recipe"]["pruning"]["pattern"]
    compiled, plan = compile_model(
        family,
        model,
        dict(ticket.masks),
        block_of(pattern),
        inputs=inputs,
        threads=threads,
        device=device,
        effort=effort,
    )
    extra: dict[str, Any] = {
        "recipe_sha256": ticket.document["recipe_sha256"],
        "pattern": pattern,
        "sparsity": ticket.masks.sparsity,
        "vlcompress": vlcompress.__version__,
    }
    save_compiled(
        run.folder / "compiled", compiled, plan, family=family, config=ticket.config, head=ticket.head, extra=extra
    )
    return plan

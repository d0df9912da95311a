"""The model card: what a ticket is, how it was found, how good it is, and what has not been measured yet."""

from collections.abc import Sequence

from vlcompress.devices import CPU, Compute, spelt
from vlcompress.models.checkpoints import listing
from vlcompress.models.hub import BESIDE, WEIGHTS, HubForm
from vlcompress.tickets.imp import TrainedArm, ticket_of
from vlcompress.tickets.ticket import Ticket


def ticket_card(
    ticket: Ticket, cells: Sequence[TrainedArm], form: HubForm | None = None, compute: Compute = CPU
) -> str:
    """Write the README of a ticket, in Markdown.

    Args:
        ticket: that it is of.
        cells: every arm of the run.
        form: as what transformers opens it.
        compute: where it was trained, and in what.
    """
    last, recipe = ticket_of(cells), ticket.recipe
    pruning = recipe.pruning
    assert last.verdict is not None
    kept = f"{ticket.kept:,} of {ticket.document['prunable_weights']:,}"
    rows = "\n".join(_row(cell) for cell in cells)
    scored = f"{ticket.document['metric']} on `{recipe.data.score}` of `{recipe.data.source}`"
    name = f"{recipe.model.family} {recipe.model.size}, {recipe.data.task}"
    return f"""# {name}: a ticket at {100 * last.sparsity:.1f} %

{last.verdict.sentence()}.

{_imported(ticket)}Kept: {kept} prunable weights (policy `{pruning.prunable}`, pattern `{pruning.pattern}`).
Sparsity by itself makes nothing smaller or faster: `vlcompress compile` and `vlcompress bench` measure what it does.

Score: {scored}, mean over the seeds {list(recipe.pruning.seeds)}.
The weights in this folder are those of seed {recipe.pruning.seeds[0]}{_computed(compute)}.

| arm | sparsity % | score | relaxed (99 %) |
|---|---|---|---|
{rows}

`{WEIGHTS}` is a plain dense state dict with exact zeros; `mask.safetensors` has one bit a weight (1 = keep).
{_opened(form)}{_ORDER if ticket.permutation else ""}"""


_ORDER = """
Mask and weights are in one order of neurons and channels. To put the mask on the checkpoint's weights, first put these
into that order: `permutation.safetensors` says for each row or column where it stood.
"""


_UNKNOWN = """
transformers has no class for this model: `vlcompress.tickets.models.ticket_model` builds it.
"""


def _opened(form: HubForm | None) -> str:
    """Say how transformers opens the folder, and what of the model it does not have."""
    if form is None:
        return _UNKNOWN
    first = "import vlcompress  # which transformers then knows\n" if form.config["model_type"] == "uniter" else ""
    module = "vlcompress.models.uniter.heads" if first else "transformers"
    said = f"""
```python
{first}from {module} import {form.kind}

model = {form.kind}.from_pretrained(FOLDER)
```
"""
    if form.beside:
        said += f"\n`{BESIDE}` holds what {form.kind} has no place for: {listing(form.beside)}.\n"
    if form.missing:
        said += f"\n{form.kind} makes anew what is not here and nothing of this task reads: {listing(form.missing)}.\n"
    return said


def _imported(ticket: Ticket) -> str:
    source = ticket.document.get("masks_from")
    return (
        f"The masks are those of `{source['file']}` (sha256 {source['sha256'][:12]}…), trained here.\n\n"
        if source
        else ""
    )


def _computed(compute: Compute) -> str:
    computed = compute.identity()
    return f", trained on {spelt(computed)}" if computed else ""


def _row(cell: TrainedArm) -> str:
    scores = [100 * trained.scores.mean for trained in cell.trained]
    outcome = cell.verdict["relaxed"].outcome if cell.verdict else ""
    return f"| {cell.arm} | {100 * cell.sparsity:.1f} | {sum(scores) / len(scores):.2f} | {outcome} |"

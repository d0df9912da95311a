"""Models of a finished run: the dense one, the ticket, and real samples to run them on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vlcompress.artefacts import load_tensors
from vlcompress.data.sources import data_folder
from vlcompress.data.tokenizer import WordPiece
from vlcompress.data.vqa_folder import open_vqa
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family
from vlcompress.models.registry import family_named
from vlcompress.tasks.vqa import VqaTask
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import Ticket


def ticket_model(ticket: Ticket) -> tuple[Family, nn.Module]:
    """Build the ticket's model: dense layers with exact zeros, in eval mode."""
    return _with_weights(ticket, ticket.weights)


def dense_model(run: Run, ticket: Ticket) -> tuple[Family, nn.Module]:
    """Build the dense model that the ticket is compared with: same seed, same training.

    Raises:
        VlcompressError: its training is no longer on the disk.
    """
    return _with_weights(ticket, load_tensors(run.training("dense") / "weights.safetensors"))


def score_task(run: Run, ticket: Ticket) -> VqaTask:
    """Open the examples that the run was scored on.

    Raises:
        VlcompressError: the data is gone, or is other data than it was.
    """
    recipe = run.recipe()
    folder = open_vqa(data_folder(recipe.data.source, run.home), (recipe.data.score,))
    if folder.identity != run.document()["data"]["score"]:
        raise VlcompressError(
            f"the data at '{folder.folder}' is not what the ticket was scored on: restore it, or prune again"
        )
    vocabulary = WordPiece.parse(ticket.vocabulary)
    return VqaTask(folder, vocabulary, family_named(ticket.family))


def samples(task: VqaTask, batch: int, count: int = 1) -> list[dict[str, Tensor]]:
    """Give the inputs of `count` batches of real examples, in the order of the split, repeated if it is short."""
    rng = torch.Generator()
    total = len(task)
    rows = [[(start * batch + offset) % total for offset in range(batch)] for start in range(count)]
    return [task.batch(indices, rng).inputs for indices in rows]


def _with_weights(ticket: Ticket, weights: Mapping[str, Tensor]) -> tuple[Family, nn.Module]:
    family = family_named(ticket.family)
    model = family.build(ticket.config, ticket.head, seed=0)
    model.load_state_dict(dict(weights))
    return family, model.eval()

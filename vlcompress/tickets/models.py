"""Models of a finished run: the dense one, the ticket, and real samples to run them on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlcompress.artefacts import load_tensors
from vlcompress.data.examples import TaskData
from vlcompress.data.published_tokenizer import read_words
from vlcompress.data.sources import data_folder
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family
from vlcompress.models.registry import family_named
from vlcompress.tasks.base import Task
from vlcompress.tasks.build_task import build_eval_task, build_task, data_of, open_data
from vlcompress.tasks.pretraining_task import nothing_to_answer
from vlcompress.tasks.registry import task_of
from vlcompress.tickets.run import Run
from vlcompress.tickets.ticket import Ticket
from vlcompress.training.checkpoint import restore


def ticket_model(ticket: Ticket) -> tuple[Family, nn.Module]:
    """Build the ticket's model: dense layers with exact zeros, in eval mode."""
    return _with_weights(ticket, ticket.weights)


def dense_model(run: Run, ticket: Ticket) -> tuple[Family, nn.Module]:
    """Build the dense model that the ticket is compared with: same seed, same training.

    Raises:
        VlcompressError: its training is no longer on the disk.
    """
    return _with_weights(ticket, load_tensors(run.training("dense") / "weights.safetensors"))


def score_task(run: Run, ticket: Ticket) -> Task:
    """Open the examples that the run was scored on.

    Raises:
        VlcompressError: the data is gone, or is other data than it was.
    """
    recipe = run.recipe()
    if ticket.head.kind == "pretraining":
        raise nothing_to_answer()
    data = _opened(run, ticket, recipe.data.score)
    if data.identity != run.result().data.score:
        raise VlcompressError(
            f"the data of '{recipe.data.source}' is not what the ticket was scored on: restore it, or prune again"
        )
    kind, family = task_of(ticket.family, recipe.data.task), family_named(ticket.family, ticket.config)
    return build_eval_task(kind, data, family, ticket.config, vocabulary_of(ticket))


def split_to_predict(run: Run, ticket: Ticket, split: str) -> Task:
    """Open a split of the run's data, with or without published answers.

    Raises:
        VlcompressError: no such split.
    """
    kind, family = task_of(ticket.family, run.recipe().data.task), family_named(ticket.family, ticket.config)
    return build_task(kind, _opened(run, ticket, split), family, ticket.config, vocabulary_of(ticket))


def vocabulary_of(ticket: Ticket) -> WordPiece:
    """Read the vocabulary that the ticket was trained with."""
    return read_words(ticket.vocabulary)


def samples(task: Task, batch: int, count: int = 1) -> list[dict[str, Tensor]]:
    """Take the inputs of `count` batches of real examples, in the order of the split, repeated if it is short."""
    rng = torch.Generator()
    total = len(task)
    rows = [[(start * batch + offset) % total for offset in range(batch)] for start in range(count)]
    return [task.batch(indices, rng).inputs for indices in rows]


def _with_weights(ticket: Ticket, weights: Mapping[str, Tensor]) -> tuple[Family, nn.Module]:
    family = family_named(ticket.family, ticket.config)
    model = family.build(ticket.config, ticket.head, seed=0)
    restore(model, weights)
    return family, model.eval()


def _opened(run: Run, ticket: Ticket, split: str) -> TaskData[Any]:
    recipe = run.recipe()
    width = ticket.config.get("visual_feat_dim") or None
    folder = data_folder(recipe.data.source, run.home, task=data_of(recipe.data.task))
    return open_data(folder, recipe.data.task, (split,), family_named(ticket.family, ticket.config), width)

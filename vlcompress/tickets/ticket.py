"""The ticket on disk: mask, trained weights with exact zeros, and a document that says how it was found.

``ticket/`` holds ``ticket.json``, ``mask.safetensors`` (one bit a weight), ``weights.safetensors`` (plain dense
tensors, loadable without this project), ``config.json``, ``vocab.txt`` (or ``tokenizer.json``) and ``README.md``; where
neurons were reordered also ``permutation.safetensors``, which takes the checkpoint's weights into the ticket's order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlcompress.artefacts import (
    dumps,
    keep_once,
    load_tensors,
    read_json,
    save_tensors,
    seal,
    unseal,
    write_file,
    writing,
)
from vlcompress.data.published_tokenizer import words_file, words_path
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Head
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.permutation import Permutation
from vlcompress.recipe import Recipe, parse_recipe

DOCUMENT = "ticket.json"
PERMUTATION = "permutation.safetensors"


@dataclass(frozen=True)
class Ticket:
    """A ticket in memory.

    Attributes:
        document: recipe and its hash, identities of model and data, rounds, verdict.
        masks: what is kept.
        weights: the whole trained state dict; pruned weights are exactly zero.
        family: name of the model family.
        config: what the family builds the model from.
        head: the task head, with its labels.
        vocabulary: text of the vocabulary file, one token a line.
        permutation: the order of neurons and channels that mask and weights are in; None is the checkpoint's.
    """

    document: Mapping[str, Any]
    masks: Masks
    weights: Mapping[str, Tensor]
    family: str
    config: Config
    head: Head
    vocabulary: str
    permutation: Permutation | None = None

    @property
    def kept(self) -> int:
        """How many of the prunable weights it keeps."""
        return self.masks.kept

    @property
    def recipe(self) -> Recipe:
        """The recipe that found it."""
        return parse_recipe(self.document["recipe"])


def save_ticket(folder: Path, ticket: Ticket, card: str, *, weights: Path | None = None) -> None:
    """Write a ticket as a whole, with `card` as its README.

    Args:
        folder: of the ticket.
        ticket: what to write.
        card: the README.
        weights: a file that may hold the same weights: they are kept once on the disk then.

    Raises:
        VlcompressError: a pruned weight is not zero (nothing is written), disk full, no permission.
    """
    for name, mask in ticket.masks.items():
        if (ticket.weights[name][~mask] != 0).any():
            raise VlcompressError(f"weight '{name}' is not zero where its mask prunes it: the mask was not held")
    with writing(folder) as temporary:
        ticket.masks.save(temporary / "mask.safetensors")
        save_tensors(temporary / "weights.safetensors", ticket.weights)
        if weights is not None:
            keep_once(temporary / "weights.safetensors", weights)
        if ticket.permutation is not None:
            ticket.permutation.save(temporary / PERMUTATION)
        head = {"kind": ticket.head.kind, "labels": list(ticket.head.labels)}
        write_file(temporary / "config.json", dumps({"family": ticket.family, "config": ticket.config, "head": head}))
        write_file(temporary / words_file(ticket.vocabulary), ticket.vocabulary)
        write_file(temporary / "README.md", card)
        seal(temporary, DOCUMENT, ticket.document)


def load_ticket(folder: Path) -> Ticket:
    """Read a ticket and check every file's hash.

    Raises:
        VlcompressError: not a ticket, or a damaged one.
    """
    document = unseal(folder, DOCUMENT)
    config = read_json(folder / "config.json")
    order = folder / PERMUTATION
    return Ticket(
        document=document,
        masks=Masks.load(folder / "mask.safetensors"),
        weights=load_tensors(folder / "weights.safetensors"),
        family=config["family"],
        config=config["config"],
        head=Head(kind=config["head"]["kind"], labels=tuple(config["head"]["labels"])),
        vocabulary=words_path(folder).read_text(encoding="utf-8"),
        permutation=Permutation.load(order) if order.is_file() else None,
    )

"""The ticket on disk: mask, trained weights with exact zeros, and a document that says how it was found.

``ticket/`` is a folder that transformers opens, where it has a class for the model: ``config.json``,
``model.safetensors`` under the published names, the tokenizer's and the image processor's files, and in
``head.safetensors`` what that class has no place for (`vlcompress.models.hub`). Beside these lie ``ticket.json``,
``mask.safetensors`` (one bit a weight, by the names here), ``vocab.txt`` (or ``tokenizer.json``) and ``README.md``;
where neurons were reordered also ``permutation.safetensors``, which takes the checkpoint's weights into the ticket's
order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlcompress.artefacts import (
    keep_once,
    load_tensors,
    read_json,
    save_tensors,
    seal,
    unseal,
    write_file,
    writing,
)
from vlcompress.data.published_tokenizer import words_path
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Family, Head
from vlcompress.models.hub import WEIGHTS, HubForm, read_form, write_form, write_words
from vlcompress.pruning.mask import Masks
from vlcompress.pruning.permutation import Permutation
from vlcompress.recipe import Recipe, parse_recipe

DOCUMENT = "ticket.json"
PERMUTATION = "permutation.safetensors"
_OLDER_WEIGHTS = "weights.safetensors"
"""Of tickets from before they were folders of transformers; their config.json said what "model" in ticket.json says."""


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


def save_ticket(
    folder: Path,
    ticket: Ticket,
    card: str,
    *,
    form: HubForm | None = None,
    longest: int = 0,
    weights: Path | None = None,
) -> None:
    """Write a ticket as a whole, with `card` as its README.

    Args:
        folder: of the ticket.
        ticket: what to write.
        card: the README.
        form: as what transformers opens it; None where it has no class for it, and names are those here.
        longest: most tokens of a text; 0 where none is read.
        weights: a file that may hold the same weights: they are kept once on the disk then.

    Raises:
        VlcompressError: a pruned weight is not zero (nothing is written), disk full, no permission.
    """
    for name, mask in ticket.masks.items():
        if (ticket.weights[name][~mask] != 0).any():
            raise VlcompressError(f"weight '{name}' is not zero where its mask prunes it: the mask was not held")
    with writing(folder) as temporary:
        ticket.masks.save(temporary / "mask.safetensors")
        if form is None:
            save_tensors(temporary / WEIGHTS, ticket.weights)
        else:
            write_form(temporary, form, ticket.weights)
        if weights is not None:
            keep_once(temporary / WEIGHTS, weights)
        if ticket.permutation is not None:
            ticket.permutation.save(temporary / PERMUTATION)
        write_words(temporary, ticket.vocabulary, longest)
        write_file(temporary / "README.md", card)
        head = {"kind": ticket.head.kind, "labels": list(ticket.head.labels), "variant": ticket.head.variant}
        model = {"family": ticket.family, "config": ticket.config, "head": head}
        seal(temporary, DOCUMENT, {**ticket.document, "model": model, "form": form.to_json() if form else None})


def load_ticket(folder: Path) -> Ticket:
    """Read a ticket and check every file's hash.

    Raises:
        VlcompressError: not a ticket, or a damaged one.
    """
    document = unseal(folder, DOCUMENT)
    model = document.pop("model", None) or read_json(folder / "config.json")
    form, order = document.pop("form", None), folder / PERMUTATION
    return Ticket(
        document=document,
        masks=Masks.load(folder / "mask.safetensors"),
        weights=read_form(folder, form) if form else load_tensors(weights_file(folder)),
        family=model["family"],
        config=model["config"],
        head=Head(model["head"]["kind"], tuple(model["head"]["labels"]), model["head"].get("variant", "")),
        vocabulary=words_path(folder).read_text(encoding="utf-8"),
        permutation=Permutation.load(order) if order.is_file() else None,
    )


def form_of(family: Family, ticket: Ticket) -> HubForm | None:
    """Say as what transformers opens a ticket; None where it has no class for it."""
    plain = {name: value for name, value in ticket.config.items() if name != "model_type"}
    return family.hub_form(plain, ticket.head, ticket.weights)


def weights_file(folder: Path) -> Path:
    """Find the file that holds a ticket's weights."""
    older = folder / _OLDER_WEIGHTS
    return older if older.is_file() else folder / WEIGHTS

"""The order of an answer head's rows: the same 3129 VQA answers are published in three different orders.

A head that is loaded in another order answers nonsense, in silence. So a head carries its labels, and a file's rows are
put into the order of the model, or refused.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlcompress.artefacts import read_json
from vlcompress.errors import VlcompressError
from vlcompress.models.checkpoints import Tensors, listing

SIDE_FILE = "ans2label.json"
"""Answers to rows, as UNITER and LXMERT publish them; put it beside a checkpoint to say its order."""


def labels_of(checkpoint: str) -> tuple[str, ...] | None:
    """Read the labels of a checkpoint's head in the order of its rows; None where nothing says them.

    They are read from `SIDE_FILE` beside the checkpoint (or in its folder), else from ``id2label`` in the folder's
    ``config.json``.

    Raises:
        VlcompressError: a file that does not number its labels from 0.
    """
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent
    side, config = folder / SIDE_FILE, folder / "config.json"
    if side.is_file():
        return _ordered(side, read_json(side))
    if Path(checkpoint).is_dir() and config.is_file():
        named = {label: int(row) for row, label in read_json(config).get("id2label", {}).items()}
        return None if not named or "LABEL_0" in named else _ordered(config, named)
    return None


def permuted(tensors: Tensors, rows: str, *, theirs: Sequence[str], mine: Sequence[str], source: str) -> Tensors:
    """Put the rows of a head's last layer into the model's order.

    Args:
        tensors: of the checkpoint.
        rows: start of the names of the tensors whose first axis is the labels ("vqa_output.3.").
        theirs: labels of the checkpoint's rows.
        mine: labels of the model's rows, as many.
        source: what to call the checkpoint in an error.

    Raises:
        VlcompressError: the labels are not the same set.
    """
    if set(theirs) != set(mine):
        raise VlcompressError(
            f"'{source}' answers with other labels than this task's {len(mine)}: {listing(set(theirs) - set(mine))} "
            "instead; give the data that it was made for, or load it with a fresh head"
        )
    row_of = {label: row for row, label in enumerate(theirs)}
    order = torch.tensor([row_of[label] for label in mine])
    return {name: tensor[order] if name.startswith(rows) else tensor for name, tensor in tensors.items()}


def in_answer_order(
    tensors: Tensors, model: nn.Module, rows: str, *, mine: Sequence[str], source: str
) -> tuple[Tensors, tuple[str, ...]]:
    """Put the rows of an answer head into the model's order where the checkpoint's is known; a note where it is not.

    Args:
        tensors: of the checkpoint.
        model: to be loaded; where its head has another number of answers, nothing is done.
        rows, mine, source: as for `permuted`.

    Raises:
        VlcompressError: the checkpoint answers with other labels.
    """
    own, bias = model.state_dict(), f"{rows}bias"
    if bias not in own or bias not in tensors or own[bias].shape != tensors[bias].shape:
        return tensors, ()
    theirs = labels_of(source)
    if theirs is None:
        head = rows.partition(".")[0]
        return tensors, (
            f"{head}.* is loaded as it is: nothing says the order of its answers, which must be this task's; "
            f"put its {SIDE_FILE} beside it",
        )
    return permuted(tensors, rows, theirs=theirs, mine=mine, source=source), ()


def _ordered(path: Path, rows: Mapping[str, Any]) -> tuple[str, ...]:
    if sorted(rows.values()) != list(range(len(rows))):
        raise VlcompressError(f"'{path}' does not number its {len(rows)} labels from 0: {json.dumps(rows)[:60]}…")
    return tuple(sorted(rows, key=lambda label: rows[label]))

"""What a task's endpoint must tell: which models it suits, how a person's request becomes tensors, and back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.refusal import Refusal, invalid, shown
from vlcompress.serve.schemas import ScoredLabel, TaskRequest
from vlcompress.serve.tensors import Arrays

Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """A request as tensors.

    Attributes:
        batches: for the model, each at most its largest batch; made one after the other, as they are run.
        facts: what the answer should tell besides (boxes and where they came from, unknown words).
        about: whatever `TaskEndpoint.answers` needs to know of the request.
    """

    batches: Iterable[Arrays]
    facts: Mapping[str, Any] = field(default_factory=dict)
    about: Any = None


class TaskEndpoint(Protocol):
    """One task, by the name that its path has."""

    name: str

    @property
    def request(self) -> type[TaskRequest]:
        """What is asked."""

    @property
    def response(self) -> type[Any]:
        """What is answered: a typed dictionary of the labels and of `Prepared.facts`."""

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say which kinds of input ("features", "image") a model can be asked with; {}: it is not for this task."""

    def prepare(self, model: LoadedModel, asked: Any) -> Prepared:
        """Make tensors of a checked request; called on a thread.

        Raises:
            Refusal: 400 with what is wrong.
        """

    def answers(
        self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int
    ) -> list[ScoredLabel] | dict[str, Any]:
        """Rank the answers, best first; `logits` are those of all batches, float64.

        A dictionary stands in the response instead of "answers".
        """


def matrix(rows: object, name: str, width: int) -> NDArray[np.float32]:
    """Read a request's rows of `width` finite numbers, float32 [rows, width]; `name` names them in errors.

    Raises:
        Refusal: 400: missing, another shape, or something that is not a finite number.
    """
    if not _is_matrix(rows, width):
        raise invalid(f"'{name}' is not a list of rows of {width} numbers")
    try:
        with np.errstate(over="ignore"):
            found = np.array(rows, dtype=np.float64).astype(np.float32)
    except (ValueError, TypeError, OverflowError):
        raise invalid(f"'{name}' holds something that is not a number") from None
    if not np.isfinite(found).all():
        raise invalid(f"'{name}' holds a number that is not finite")
    return found


def best_labels(scores_L: NDArray[np.floating[Any]], labels: Sequence[str], top_k: int) -> list[ScoredLabel]:
    """Rank labels by score, best first; a label that has no name is told by its number."""
    best = np.argsort(-scores_L, kind="stable")[:top_k]
    names = [labels[i] if i < len(labels) else str(i) for i in best.tolist()]
    return [ScoredLabel(label=name, score=round(float(scores_L[i]), 6)) for name, i in zip(names, best, strict=True)]


def softmax(logits: Logits) -> Logits:
    """Make probabilities along the last axis."""
    powers: Logits = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Logits = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def is_for(model: LoadedModel, task: str) -> bool:
    """Tell whether a model was trained for a task, as far as its documents say."""
    return model.origin.get("task", "vqa" if task == "vqa" else "") == task


def not_for_task(model: LoadedModel, task: str) -> Refusal:
    """Build the refusal of a model that cannot do a task."""
    return invalid(f"model '{model.name}' version {model.version} does not do task '{shown(task)}': see GET /v1")


def _is_matrix(rows: object, width: int) -> bool:
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, list) and len(row) == width for row in rows)
        and all(type(value) in (int, float) for row in rows for value in row)
    )

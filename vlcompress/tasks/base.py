"""What a task must tell: what it trains on, how the benchmark scores it, and what its predictions are handed in as."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vlcompress.data.examples import TaskData
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family, Head, scores_of
from vlcompress.models.objective import Batch, Divisible, Objective, row_share
from vlcompress.tasks.preprocessing import Preprocessor

Answer = Callable[[Mapping[str, Tensor]], Tensor]
"""A model in any form and runtime: takes a batch's inputs, gives its head's logits on the CPU."""

Blind = float | Tensor | None
"""What a model that does not look scores, in [0, 1]: of a split, or of each of its units [n]; None is not known."""


@dataclass(frozen=True)
class Scores:
    """How a model did on a split.

    Attributes:
        scores: float32 [n] in [0, 1], one for each unit that the metric is a mean over, in the order of the split.
        predictions: int64 [n], what was predicted; each task says what the numbers mean.
        figures: the benchmark's other figures, by name, each in [0, 1].
    """

    scores: Tensor
    predictions: Tensor
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The task's metric, in [0, 1]."""
        return float(self.scores.double().mean())


class TrainTask(Objective, Protocol):
    """An objective of a task: it says what head it trains."""

    @property
    def head(self) -> Head:
        """The head that is trained."""

    @property
    def hidden(self) -> bool:
        """Whether the right answers are not published, so that there is nothing to learn from."""


@runtime_checkable
class LogitTask(TrainTask, Divisible, Protocol):
    """An objective whose loss sees nothing of the model but its logits."""

    @property
    def compares(self) -> bool:
        """See `LogitLoss`."""

    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the training loss, a scalar, of a batch's logits (`Family.logits`) and targets."""


class EvalTask(Protocol):
    """Examples that a model can be scored on."""

    @property
    def metric(self) -> str:
        """Name of the score."""

    def __len__(self) -> int:
        """Count the examples."""

    def evaluate(self, model: nn.Module, *, batch: int) -> Scores:
        """Score every example, `batch` at a time."""


class Task(EvalTask, Protocol):
    """Scored examples that any form of the model can answer, PyTorch or not."""

    @property
    def head(self) -> Head:
        """The head that answers it."""

    @property
    def hidden(self) -> bool:
        """Whether the right answers are not published, so that predictions can be made and not scored."""

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch to be scored; chance plays no part."""

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every example as `answer` answers it, `batch` at a time."""

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write the file that the benchmark wants handed in, with the prediction for every example."""


class LogitLoss(ABC):
    """A loss of the head's logits alone, computed on what the family's model says of a batch."""

    family: Family
    compares = False
    """Whether the loss compares a batch's examples with one another, so that it cannot be learned in parts."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run the model on a batch, and take `loss_of` its logits."""
        return self.loss_of(self.family.logits(model, batch.inputs), batch.targets)

    def share(self, part: Batch) -> float:
        """See `Divisible`: the loss is a mean over examples; a task whose loss is a sum says 1."""
        return row_share(part)

    @abstractmethod
    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the training loss, a scalar, of a batch's logits (`Family.logits`) and targets."""


class PerExampleTask(ABC):
    """A task whose examples are scored one by one.

    Args:
        data: the examples.
        preprocessor: makes batches of them, for the family that runs the model.
    """

    metric: str
    head: Head
    views = 1
    """How many times the examples of a batch follow one another in its rows."""

    def __init__(self, data: TaskData[Any], preprocessor: Preprocessor) -> None:
        self.family = preprocessor.family
        self._data, self._examples = data, data.examples
        self._preprocessor = preprocessor

    def __len__(self) -> int:
        return len(self._examples)

    def called(self, index: int) -> str:
        """Name an example in a message."""
        return self._data.called(index)

    @abstractmethod
    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch of the examples at `indices`."""

    @abstractmethod
    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score each example in [0, 1], float32 [B], and name its prediction, int64 [B]."""

    def constant(self) -> float | None:
        """Score, in [0, 1], the best single answer given to every example; None where there is none."""
        return None

    def evaluate(self, model: nn.Module, *, batch: int) -> Scores:
        """Score a PyTorch model on every example, `batch` at a time."""
        return self.measure(torch_predictor(self.family, model), batch=batch)

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every example as `answer` answers it, `batch` at a time."""
        judged = [self.judge(logits, targets) for logits, targets in self.answered(answer, batch=batch)]
        scores, predictions = zip(*judged, strict=True)
        return Scores(torch.cat(scores), torch.cat(predictions))

    def answered(self, answer: Answer, *, batch: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Run every batch, in order, into logits and targets.

        Raises:
            VlcompressError: see `finite`.
        """
        for start in range(0, len(self), batch):
            indices = range(start, min(start + batch, len(self)))
            examples = self.batch(indices, torch.Generator())
            yield finite(answer(examples.inputs), [*indices] * self.views, self.called), examples.targets


def finite(logits: Tensor, indices: Sequence[int], called: Callable[[int], str]) -> Tensor:
    """Check that what a model says of some examples is numbers, and pass it on.

    Every comparison with NaN is false, so that a metric would take the first answer, or count a right pair as best.

    Args:
        logits: [k B, ...], k rows for each index.
        indices: B, of the examples.
        called: names an example in a message.

    Raises:
        VlcompressError: NaN or infinity; names the first example that has one.
    """
    right = torch.isfinite(logits)
    if bool(right.all()):
        return logits
    row = int((~right).reshape(len(indices), -1).any(dim=1).int().argmax())
    raise VlcompressError(
        f"the model's scores of {called(indices[row])} are not finite (NaN or infinite), so no metric means anything: "
        "look for such numbers in its features and in the weights; in fp16, take bf16 or fp32"
    )


def commonest(answers: Iterable[Hashable]) -> float:
    """Compute the share of the commonest answer, in [0, 1]."""
    counts = Counter(answers)
    return max(counts.values()) / counts.total()


def torch_predictor(family: Family, model: nn.Module) -> Answer:
    """Make a PyTorch model an `Answer`, where it is and in its dtype."""
    model.eval()
    return lambda inputs: scores_of(family, model, inputs)

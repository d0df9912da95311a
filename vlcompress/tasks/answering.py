"""What tasks with a closed list of answers share: VQA, GQA, SNLI-VE.

Shapes: B batch, A answers.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from vlcompress.data.examples import TaskData
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Answer, LogitLoss, PerExampleTask
from vlcompress.tasks.preprocessing import Preprocessor

BEST_ANSWER = "best-answer"
"""The name in a recipe of `best_answer_loss`."""


class ClosedAnswers(LogitLoss, PerExampleTask):
    """Sentences about an image, each with soft scores for a closed list of answers.

    Args:
        data: examples with a sentence (`text`) about one image (`image`).
        preprocessor: makes batches of them.
        labels: the answers in the order of the head's outputs.
        targets: for each example, answer's index to score in (0, 1]; empty where it is not published.
    """

    def __init__(
        self,
        data: TaskData[Any],
        preprocessor: Preprocessor,
        labels: Sequence[str],
        targets: Sequence[Mapping[int, float]],
    ) -> None:
        super().__init__(data, preprocessor)
        self.head = Head("answers", tuple(labels))
        self.criterion: Callable[[Tensor, Tensor], Tensor] = soft_loss
        self._targets = targets
        self._ids = preprocessor.ids([example.text for example in self._examples])

    @property
    def hidden(self) -> bool:
        """Whether no example has an answer."""
        return not any(self._targets)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these examples; `rng` is not used.

        Targets: "answers" float32 [B, A], soft scores in 0..1.
        """
        answers_BA = torch.zeros(len(indices), len(self.head.labels))
        samples = []
        for row, index in enumerate(indices):
            target = self._targets[index]
            scores = torch.tensor(list(target.values()), dtype=torch.float32)
            answers_BA[row, torch.tensor(list(target), dtype=torch.long)] = scores
            samples.append(
                self._preprocessor.sample(self._ids[index], self._preprocessor.image(self._examples[index].image))
            )
        return Batch(self._preprocessor.batch(samples), {"answers": answers_BA})

    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compare logits and targets by `criterion`: `soft_loss`, or what a recipe asks for."""
        return self.criterion(logits, targets["answers"])

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score each example's best answer, and name that answer's index."""
        best_B = logits.argmax(dim=1)
        return targets["answers"].gather(1, best_B[:, None])[:, 0], best_B

    def constant(self) -> float:
        """Score the answer that is best for all examples together."""
        return constant_score(self._targets)

    def best(self, answer: Answer, *, batch: int) -> list[str]:
        """Name the best answer to every example."""
        judged = (self.judge(logits, targets) for logits, targets in self.answered(answer, batch=batch))
        return [self.head.labels[index] for _, predictions in judged for index in predictions.tolist()]


def soft_loss(logits_BA: Tensor, answers_BA: Tensor) -> Tensor:
    """Compute binary cross entropy with the soft scores, summed over A and averaged over B.

    That of airsplay/lxmert, ChenRocks/UNITER and dandelin/ViLT alike.
    """
    return binary_cross_entropy_with_logits(logits_BA, answers_BA) * answers_BA.shape[1]


def best_answer_loss(logits_BA: Tensor, answers_BA: Tensor) -> Tensor:
    """Compute the cross entropy with each example's best answer, averaged over B and times A (LXMERT's --mceLoss).

    The first answer stands for those of an example whose answers are all outside the list, as officially.
    """
    return cross_entropy(logits_BA, answers_BA.argmax(dim=1)) * answers_BA.shape[1]


def constant_score(targets: Sequence[Mapping[int, float]]) -> float:
    """Compute the mean soft score, in [0, 1], of the single answer that is best for all targets together."""
    sums = Counter[int]()
    for target in targets:
        sums.update(target)
    return max(sums.values(), default=0.0) / len(targets)

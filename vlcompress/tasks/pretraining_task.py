"""Pre-training as a task: a ticket found on it can be fine-tuned on every other one (Gan et al., AAAI 2022).

Each family has its own objectives (see `Family.pretraining`). What they say of a model is a loss, and a low one does
not promise good fine-tuning, as the paper warns: the score here is a stand-in that lets pre-training be pruned and
judged like any task.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlcompress.data.examples import AnswerExample, CaptionExample, TaskData
from vlcompress.data.regions import Regions
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Head, pretraining_of
from vlcompress.models.marginal import constant_losses
from vlcompress.models.objective import Batch, PretrainingObjective
from vlcompress.tasks.base import Answer, Scores, finite
from vlcompress.tasks.preprocessing import NO_TEXT, Preprocessor

UNIT = 8
"""Examples that one score is of: masks and mismatches are drawn for so many together."""

_NO_ANSWERS = ("",)  # LXMERT's answer head needs a row even where no sentence is a question
_NOTHING = -1


class PretrainingSentence:
    """One sentence about one image, as the families' objectives want it; the image is read when it is asked for."""

    def __init__(
        self,
        example: AnswerExample | CaptionExample,
        tokens: NDArray[np.int64],
        answer: int,
        answer_tokens: NDArray[np.int64],
        preprocessor: Preprocessor,
    ) -> None:
        self.img_id = example.image
        self.tokens = tokens
        self.answer, self.answer_tokens = answer, answer_tokens
        self._preprocessor = preprocessor

    @property
    def regions(self) -> Regions:
        """The image's regions."""
        image = self._preprocessor.image(self.img_id)
        assert isinstance(image, Regions)
        return image

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture in the model's size, uint8 [height, width, 3]."""
        image = self._preprocessor.image(self.img_id)
        assert isinstance(image, np.ndarray)
        return image


class PretrainingTask:
    """Sentences and their images under a family's own objectives.

    Args:
        data: captions, or sentences with answers where they are questions.
        preprocessor: of the family.
    """

    metric = "1 / (1 + pre-training loss)"
    hidden = False

    def __init__(self, data: TaskData[Any], preprocessor: Preprocessor) -> None:
        self.head = Head("pretraining", data.labels or _NO_ANSWERS)
        self._objective = _objective(data, preprocessor)
        self._called = data.called

    def __len__(self) -> int:
        return len(self._objective)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make a batch; masks and mismatches are drawn from `rng`."""
        return self._objective.batch(indices, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the family's pre-training loss."""
        return self._objective.loss(model, batch)

    def share(self, part: Batch) -> float:
        """See `vlcompress.models.objective.Divisible`."""
        return self._objective.share(part)

    def evaluate(self, model: nn.Module, *, batch: int) -> Scores:
        """Score 1 / (1 + loss) of every UNIT examples, in (0, 1]; the same chance for every model; no predictions."""
        device = next(model.parameters()).device
        losses = [
            finite(self.loss(model, unit.to(device)).float().cpu(), indices[:1], self._called)
            for indices, unit in self._units()
        ]
        loss = torch.stack(losses)
        return Scores(1 / (1 + loss), torch.full((len(loss),), _NOTHING), {})

    def constant(self, config: Config) -> Tensor:
        """Score the best single answer to all that is asked of a model of this configuration, float32 [units]."""
        losses = constant_losses(lambda: (self._objective.asked(unit.targets, config) for _, unit in self._units()))
        return 1 / (1 + losses)

    def _units(self) -> Iterator[tuple[range, Batch]]:
        """Make every UNIT examples one batch, with the same chance at every call."""
        for start in range(0, len(self), UNIT):
            indices = range(start, min(start + UNIT, len(self)))
            yield indices, self.batch(indices, torch.Generator().manual_seed(start))

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Refuse: pre-training heads give no one set of scores that a file or a compiled model could answer with."""
        raise nothing_to_answer()

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Refuse, as `measure` does."""
        raise nothing_to_answer()


def _objective(data: TaskData[Any], preprocessor: Preprocessor) -> PretrainingObjective:
    """Make the family's objectives."""
    spec = pretraining_of(preprocessor.family)
    return spec.objective(sentences(data, preprocessor), preprocessor.vocabulary, **spec.settings)


def sentences(data: TaskData[Any], preprocessor: Preprocessor) -> list[PretrainingSentence]:
    """Pair the data's sentences with the rows of their best answers (-1: no question, or an unknown answer)."""
    index = {label: row for row, label in enumerate(data.labels)}
    words = [np.array(preprocessor.vocabulary.pieces(label), dtype=np.int64) for label in data.labels]
    ids = preprocessor.ids([example.text for example in data.examples])
    best = [_best_answer(example, index) for example in data.examples]
    return [
        PretrainingSentence(example, tokens, row, NO_TEXT if row == _NOTHING else words[row], preprocessor)
        for example, tokens, row in zip(data.examples, ids, best, strict=True)
    ]


def _best_answer(example: AnswerExample | CaptionExample, index: dict[str, int]) -> int:
    scores = example.answers if isinstance(example, AnswerExample) else {}
    known = [answer for answer in scores if answer in index]
    return index[max(known, key=lambda answer: scores[answer])] if known else _NOTHING


def nothing_to_answer() -> VlcompressError:
    """Make the error that says why a pre-training ticket goes no further."""
    return VlcompressError(
        "a pre-training ticket answers nothing by itself, so it is not compiled, exported or handed in: fine-tune it "
        "with `vlcompress study transfer`, or prune a task from its weights"
    )

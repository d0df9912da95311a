"""Made-up data in memory, and a family that shows what it was given."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlcompress.data.examples import TaskData
from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.models.base import Sample
from vlcompress.models.registry import FAMILIES
from vlcompress.tasks.preprocessing import Preprocessor

WORDS = "what color is the red blue cube ball who why he she happy runs a left of two true".split()  # noqa: SIM905
VOCABULARY = WordPiece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS))
WIDTH = 3


def make_regions(image: str, boxes: Sequence[Sequence[float]]) -> Regions:
    """Return regions whose features say where they are."""
    boxes_R4 = np.array(boxes, dtype=np.float32)
    count = len(boxes_R4)
    ids, conf = np.zeros(count, np.int64), np.ones(count, np.float32)
    features = np.repeat(boxes_R4.sum(axis=1, keepdims=True), WIDTH, axis=1)
    return Regions(image, 100, 100, boxes_R4, features, ids, conf, ids, conf)


class MemoryPictures:
    """Images made from their names: detected and annotated boxes as given."""

    feature_dim = WIDTH

    def __init__(self, detected: dict[str, Any], annotated: dict[str, Any]) -> None:
        self.detected, self.annotated = detected, annotated

    def has_regions(self, image: str, *, ground_truth: bool | None = None) -> bool:
        kinds = {None: {**self.detected, **self.annotated}, False: self.detected, True: self.annotated}
        return image in kinds[ground_truth]

    def has_pixels(self, image: str) -> bool:
        return True

    def regions(self, image: str, *, ground_truth: bool = False) -> Regions:
        return make_regions(image, (self.annotated if ground_truth else self.detected)[image])

    def pixels(self, image: str) -> NDArray[np.uint8]:
        return np.full((4, 4, 3), len(image), np.uint8)


class ShowingFamily:
    """A family that keeps the samples of each batch, and whose logits are what `score` makes of them."""

    reads = "regions"

    def __init__(self, name: str = "uniter", score: Callable[[Sample], Any] = lambda sample: 0.0) -> None:
        self.name, self.score = name, score
        self.retrieval = FAMILIES[name].retrieval
        self.batches: list[list[Sample]] = []

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        self.batches.append(list(samples))
        return {"row": torch.arange(len(samples))}

    def logits(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Answer the newest batch; scores of different lengths are padded with -1e4."""
        rows = [torch.as_tensor(self.score(sample), dtype=torch.float32) for sample in self.batches[-1]]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1e4) if rows[0].dim() else (
            torch.stack(rows)
        )  # fmt: skip


def make_data(task: str, examples: Sequence[Any], pictures: Any, labels: Sequence[str] = ()) -> TaskData[Any]:
    """Return opened data of one split."""
    return TaskData(task, ("val",), tuple(examples), pictures, tuple(labels), VOCABULARY, "0" * 64)


def make_reader(family: Any, pictures: Any, most: int = 220) -> Preprocessor:
    """Return a preprocessor over pictures in memory."""
    return Preprocessor(family, VOCABULARY, pictures, most)


def text(sample: Sample) -> str:
    """Return a sample's words; ids beyond the vocabulary as numbers."""
    return " ".join(VOCABULARY.tokens[i] if i < len(VOCABULARY.tokens) else str(i) for i in sample.ids)


@pytest.fixture
def model() -> nn.Module:
    """A model that nothing looks at."""
    return nn.Linear(1, 1)

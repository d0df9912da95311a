"""Image-text retrieval (Flickr30k, COCO): find the image of a caption, and a caption of an image.

Every pair of text and image is scored: together, or by the product of what two towers make of each
(`vlcompress.tasks.two_towers`), as `Family.retrieval` says. The score matrix streams through in blocks and is not kept,
so memory grows with texts and images, not with their pairs. The metric is the mean of both directions' recall at 1.

Shapes: B batch; T texts, I images; t, i those of a block.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlcompress.data.examples import CaptionExample, TaskData
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Family, Head, Sample
from vlcompress.models.objective import Batch
from vlcompress.tasks import two_towers
from vlcompress.tasks.base import Answer, LogitLoss, Scores, finite, torch_predictor
from vlcompress.tasks.metrics.retrieval import Ranks
from vlcompress.tasks.preprocessing import Preprocessor

HEAD = Head("match")
MARGIN = 0.2
"""Of UNITER's triplet loss."""

FALSE_TEXTS = 15
"""Wrong captions beside the right one in a ViLT example (``draw_false_text``)."""

_TRIES = 1000  # draws of another image's caption before the data are taken to hold one image only


class Captions:
    """Captions with their images.

    Args:
        data: the captions.
        preprocessor: makes samples of them.
    """

    def __init__(self, data: TaskData[CaptionExample], preprocessor: Preprocessor) -> None:
        self.examples = data.examples
        self.preprocessor = preprocessor
        self.images = tuple(dict.fromkeys(example.image for example in data.examples))
        row = {name: index for index, name in enumerate(self.images)}
        self.image_of = [row[example.image] for example in data.examples]
        self._ids = preprocessor.ids([example.text for example in data.examples])

    def __len__(self) -> int:
        return len(self.examples)

    def sample(self, text: int, image: int) -> Sample:
        """Make the sample of a caption and an image, by their rows."""
        return self.preprocessor.sample(self._ids[text], self.preprocessor.image(self.images[image]))

    def inputs(self, pairs: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Make the batch of (caption, image) pairs."""
        return self.preprocessor.batch([self.sample(text, image) for text, image in pairs])

    def other_text(self, image: int, rng: torch.Generator) -> int:
        """Draw a caption of another image.

        Raises:
            VlcompressError: there is only one image.
        """
        for _ in range(_TRIES):
            text = int(torch.randint(len(self.examples), (), generator=rng))
            if self.image_of[text] != image:
                return text
        raise VlcompressError(f"no caption of another image than '{self.images[image]}': retrieval needs two images")

    def other_image(self, image: int, rng: torch.Generator) -> int:
        """Draw another image, all alike."""
        if len(self.images) < 2:
            raise VlcompressError(f"'{self.images[image]}' is the only image: retrieval needs two images or more")
        drawn = int(torch.randint(len(self.images) - 1, (), generator=rng))
        return drawn + (drawn >= image)


Pairs = list[tuple[int, int]]


def triplet(captions: Captions, text: int, rng: torch.Generator) -> Pairs:
    """Draw UNITER's example: the pair, the text with another image, another text with the image."""
    image = captions.image_of[text]
    return [(text, image), (text, captions.other_image(image, rng)), (captions.other_text(image, rng), image)]


def triplet_loss(scores_BP: Tensor) -> Tensor:
    """Compute the mean of max(0, margin + s(wrong) - s(right)) over the wrong pairs, s the sigmoid of the score."""
    belong = scores_BP.sigmoid()
    return (MARGIN + belong[:, 1:] - belong[:, :1]).clamp(min=0).mean()


def right_and_false_texts(captions: Captions, text: int, rng: torch.Generator) -> Pairs:
    """Draw ViLT's example: the pair, and the image with 15 captions of other images."""
    image = captions.image_of[text]
    return [(text, image), *((captions.other_text(image, rng), image) for _ in range(FALSE_TEXTS))]


def first_of_all_loss(scores_BP: Tensor) -> Tensor:
    """Compute the mean cross entropy of choosing the first pair, the right one."""
    return cross_entropy(scores_BP, torch.zeros(len(scores_BP), dtype=torch.int64, device=scores_BP.device))


OFFICIAL: dict[str, tuple[Callable[[Captions, int, torch.Generator], Pairs], Callable[[Tensor], Tensor]]] = {
    "triplet": (triplet, triplet_loss),
    "false-texts": (right_and_false_texts, first_of_all_loss),
}
"""How an example's pairs are made, the right one first, and the loss of their scores, by `Family.retrieval`: UNITER's
and ViLT's official code."""


def head_of(family: Family) -> Head:
    """Name the head that a family retrieves with."""
    return two_towers.HEAD if family.retrieval == "contrastive" else HEAD


class RetrievalTraining(LogitLoss):
    """Captions to learn from, each with its image and with what does not belong to it."""

    hidden = False

    def __init__(self, data: TaskData[CaptionExample], preprocessor: Preprocessor) -> None:
        self._captions = Captions(data, preprocessor)
        self.family = preprocessor.family
        self.head = head_of(self.family)
        self.compares = self.head == two_towers.HEAD
        if self.head != two_towers.HEAD:
            self._pairs, self._loss = OFFICIAL[self.family.retrieval]

    def __len__(self) -> int:
        return len(self._captions)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the pairs of these captions, P for each, the right one first (two towers: that one alone).

        Targets: "right" int64 [B], the place of the right pair, 0; for two towers "image" int64 [B], its image's row.
        """
        images = [self._captions.image_of[index] for index in indices]
        if self.head == two_towers.HEAD:
            inputs = self._captions.inputs(list(zip(indices, images, strict=True)))
            return Batch(inputs, {"image": torch.tensor(images)})
        pairs = [pair for index in indices for pair in self._pairs(self._captions, index, rng)]
        return Batch(self._captions.inputs(pairs), {"right": torch.zeros(len(indices), dtype=torch.int64)})

    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the family's official loss (see `OFFICIAL`; for two towers `two_towers.contrast`)."""
        if self.head == two_towers.HEAD:
            return two_towers.contrast(logits, targets["image"])
        return self._loss(logits.reshape(len(targets["right"]), -1))


class RetrievalTask:
    """Captions and images to be matched, all with all."""

    metric = "mean of image and text R@1"
    hidden = False

    def __init__(self, data: TaskData[CaptionExample], preprocessor: Preprocessor) -> None:
        self._captions = Captions(data, preprocessor)
        self._called = data.called
        self.family = preprocessor.family
        self.head = head_of(self.family)

    def __len__(self) -> int:
        return len(self._captions)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these captions with their own images; `rng` is not used and there are no targets."""
        return Batch(self._captions.inputs([(text, self._captions.image_of[text]) for text in indices]), {})

    def constant(self) -> float:
        """Score chance: a caption's image among all images, as seldom as one of an image's captions among all."""
        return 1 / len(self._captions.images)

    def evaluate(self, model: nn.Module, *, batch: int) -> Scores:
        """Score a PyTorch model."""
        return self.measure(torch_predictor(self.family, model), batch=batch)

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every pair, `batch` of them at a time.

        Returns:
            one score an image: the mean of whether one of its captions is found for it (text R@1) and of the share of
            its captions that it is found for (image R@1). Predictions: how many wrong captions rank above its best.
        """
        ranks = Ranks(self._captions.image_of, len(self._captions.images))
        if self.head == two_towers.HEAD:
            text_TD, image_ID = self._embedded(answer, batch=batch)
            ranks.right(slice(0, len(self)), two_towers.products(text_TD, image_ID[self._captions.image_of]))
            blocks = two_towers.blocks(text_TD, image_ID)
        else:
            self._rank_right(ranks, answer, batch=batch)
            blocks = self.blocks(answer, batch=batch)
        for rows, columns, scores_ti in blocks:
            ranks.block(rows, columns, scores_ti)
        return Scores(self._by_image(ranks), ranks.text_rank_I, ranks.recalls())

    def _embedded(self, answer: Answer, *, batch: int) -> tuple[Tensor, Tensor]:
        captions = self._captions
        return two_towers.embed(answer, captions.inputs, captions.image_of, batch=batch, called=self._called)

    def _rank_right(self, ranks: Ranks, answer: Answer, *, batch: int) -> None:
        for start in range(0, len(self), batch):
            texts = range(start, min(start + batch, len(self)))
            right = answer(self.batch(texts, torch.Generator()).inputs)
            ranks.right(slice(texts.start, texts.stop), finite(right, texts, self._called))

    def blocks(self, answer: Answer, *, batch: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Score the matrix [T, I] block by block, at most `batch` pairs each."""
        if self.head == two_towers.HEAD:
            yield from two_towers.blocks(*self._embedded(answer, batch=batch))
            return
        high = min(batch, len(self))
        wide = max(1, batch // high)
        for first in range(0, len(self._captions.images), wide):
            columns = range(first, min(first + wide, len(self._captions.images)))
            for start in range(0, len(self), high):
                rows = range(start, min(start + high, len(self)))
                scores = answer(self._captions.inputs([(text, image) for text in rows for image in columns]))
                scores = finite(scores, rows, self._called)
                yield slice(rows.start, rows.stop), slice(columns.start, columns.stop), scores.view(len(rows), -1)

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write what UNITER's ``inf_itm.py`` writes (results.bin): a pickle of (float16 [T, I], text ids, image names).

        Unlike the scores, this file holds the whole matrix.
        """
        scores_TI = torch.empty(len(self), len(self._captions.images), dtype=torch.float16)
        for rows, columns, scores_ti in self.blocks(answer, batch=batch):
            scores_TI[rows, columns] = scores_ti.half()
        content = io.BytesIO()
        pickle.dump((scores_TI, [str(one.id) for one in self._captions.examples], list(self._captions.images)), content)
        return content.getvalue()

    @cached_property
    def _texts_of(self) -> Tensor:
        """How many captions each image has, int64 [I]."""
        return torch.bincount(torch.tensor(self._captions.image_of), minlength=len(self._captions.images))

    def _by_image(self, ranks: Ranks) -> Tensor:
        found_T = (ranks.image_rank_T == 0).float()
        found_I = torch.zeros(len(self._texts_of)).scatter_add_(0, ranks.image_of_T, found_T) / self._texts_of
        return ((ranks.text_rank_I == 0).float() + found_I) / 2

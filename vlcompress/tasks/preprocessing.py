"""From text and the names of images to a family's batches."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlcompress.data.examples import Pictures, TokenIds
from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError
from vlcompress.models.base import Config, Family, Sample

CACHED_BYTES = 1 << 30
"""Images kept in memory once read; a larger data set is read from the disk again."""

COMPARED = 100
"""Sentences whose ids are compared with what the vocabulary makes of them: other vocabularies differ at once."""

Pixels = NDArray[np.uint8]
"""A picture, uint8 [height, width, 3] RGB."""
Image = Regions | Pixels
Ids = NDArray[np.int64]
NO_TEXT: Ids = np.zeros(0, dtype=np.int64)
"""The text of a picture alone."""


def max_words(family: Family, config: Config, most: int | None = None) -> int:
    """Limit the text, in word pieces, that a model of this family and configuration reads.

    Args:
        family: of the model.
        config: of the model; its position embeddings are a limit too.
        most: the task's own limit (VCR's 220; 0 where no text is read); None takes the family's.
    """
    return min(family.longest_text if most is None else most, int(config.get("max_position_embeddings", 1 << 30)))


class Preprocessor:
    """Makes samples and batches for one family; images are kept in memory as far as they fit.

    Args:
        family: says what samples become in a batch, and whether its images are regions or pixels.
        vocabulary: the model's.
        pictures: where images are read from.
        most: longest text in word pieces (see `max_words`).
        encoded: token ids that the data brings along; used in place of the sentences if they are of the vocabulary.

    Raises:
        VlcompressError: the data's ids go beyond the vocabulary.
    """

    def __init__(
        self, family: Family, vocabulary: WordPiece, pictures: Pictures, most: int, encoded: TokenIds | None = None
    ) -> None:
        self.family = family
        self.vocabulary = vocabulary
        self.most = most
        self._encoded = encoded if encoded and encoded.vocabulary in ("", vocabulary.sha256) else None
        if self._encoded and self._encoded.ids.max(initial=0) >= vocabulary.vocab_size:
            raise VlcompressError(
                f"the data's token ids go up to {self._encoded.ids.max()}, the vocabulary has {vocabulary.vocab_size} "
                "tokens: give the vocab.txt that the data was made with"
            )
        self.pictures = pictures
        self._images: dict[tuple[str, bool], Image] = {}
        self._cached = 0

    def ids(self, sentences: Sequence[str]) -> list[Ids]:
        """Turn the data's sentences, in their order, into token ids with [CLS] and [SEP], int64 [T] of its own length.

        Raises:
            VlcompressError: the vocabulary belongs to other sentences, or other words to the data's ids.
        """
        if self._encoded is not None:
            if not self._encoded.vocabulary:
                self._check_encoded(self._encoded, sentences)
            cls, sep = self.vocabulary.cls_id, self.vocabulary.sep_id
            rows = (self._encoded[index][: self.most - 2] for index in range(len(sentences)))
            return [np.array([cls, *row, sep], dtype=np.int64) for row in rows]
        self.vocabulary.check_covers(sentences)
        return self.vocabulary.rows(sentences, self.most)

    def _check_encoded(self, given: TokenIds, sentences: Sequence[str]) -> None:
        """Refuse ids that do not say what the sentences say; a vocabulary may know them all and mean other words."""
        rows = range(min(COMPARED, len(sentences)))
        other = [row for row in rows if given[row].tolist() != self.vocabulary.pieces(sentences[row])]
        if len(other) > len(rows) / 2:
            tokens = " ".join(self.vocabulary.tokens[piece] for piece in given[other[0]])
            raise VlcompressError(
                f"the data's token ids are of another vocabulary: '{sentences[other[0]]}' would be read as '{tokens}'; "
                "give the vocab.txt that they were made with (UNITER's meta.json names it)"
            )

    def sample(self, ids_T: Ids, *images: Image, types_T: Ids | None = None) -> Sample:
        """Make a sample; without `types_T` every token is of segment 0."""
        return Sample(ids_T, np.zeros_like(ids_T) if types_T is None else types_T, images)

    def image(self, name: str, *, ground_truth: bool = False) -> Image:
        """Read an image in the form that the family takes; `ground_truth` asks for the annotated boxes' regions."""
        key = (name, ground_truth)
        if key not in self._images:
            image = self._read(name, ground_truth)
            if self._cached >= CACHED_BYTES:
                return image
            self._images[key] = image
            self._cached += image.features.nbytes if isinstance(image, Regions) else image.nbytes
        return self._images[key]

    def batch(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Pad samples to a batch with the model's argument names."""
        return self.family.collate(samples)

    def _read(self, name: str, ground_truth: bool) -> Image:
        if self.family.reads == "pixels":
            return self.pictures.pixels(name)
        return self.pictures.regions(name, ground_truth=ground_truth)

"""``POST /v1/retrieval``: find images of a text, or texts of an image, in the server's index.

Every entry goes through the model together with what is asked, a batch at a time: most models score pairs.
"""

import base64
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from vlcompress.serve.index import FEATURES, Index
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import stacked
from vlcompress.serve.refusal import Refusal, invalid
from vlcompress.serve.schemas import ImageInput, ScoredLabel, SearchRequest, SearchResponse
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels, is_for
from vlcompress.serve.tasks.embeddings import cosines, embeds
from vlcompress.serve.tasks.images import accepts_images, seen
from vlcompress.serve.tasks.texts import read_text, row_of
from vlcompress.serve.tensors import Arrays


class RetrievalEndpoint:
    """See `vlcompress.serve.tasks.base.TaskEndpoint`."""

    name = "retrieval"
    request = SearchRequest
    response = SearchResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: region features, or a picture; either way a text."""
        return accepts_images(model) if is_for(model, self.name) and model.vocabulary is not None else {}

    def prepare(self, model: LoadedModel, asked: SearchRequest) -> Prepared:
        """Pair what is asked with every entry of the index.

        Raises:
            Refusal: 400: no index, or nothing of the wanted kind in it.
        """
        index = model.index
        if index is None:
            raise invalid("this server has no index to search: start it with --index FOLDER")
        if asked.text is not None:
            names, rows = [path.name for path in index.images], _with_images(model, asked.text, index)
        else:
            assert asked.image is not None  # the request's own check
            names, rows = list(index.captions), _with_captions(model, asked.image, index)
        if not names:
            raise invalid(f"the server's index holds no {'captions' if asked.text is None else 'images'}")
        return Prepared(_batches(rows, model.limits.max_batch), {"searched": len(names)}, names)

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        """Rank the entries; a score is the sigmoid of the pair's logit, or the cosine of two embeddings."""
        scores = cosines(logits) if embeds(model) else 1 / (1 + np.exp(-logits))
        return best_labels(scores, prepared.about, top_k)


def _with_images(model: LoadedModel, text: str, index: Index) -> Iterator[Arrays]:
    words, _ = read_text(model, text)
    for path in index.images:
        try:
            image = seen(model, _file(path))
        except Refusal as error:
            raise invalid(f"'{path.name}' of the server's index: {error}") from error
        yield row_of(model, words, image.image)


def _with_captions(model: LoadedModel, image: ImageInput, index: Index) -> Iterator[Arrays]:
    shown = seen(model, image)
    for caption in index.captions:
        yield row_of(model, read_text(model, caption)[0], shown.image)


def _file(path: Path) -> ImageInput:
    content = base64.b64encode(path.read_bytes()).decode()
    return ImageInput.model_validate({"features" if path.suffix.lower() in FEATURES else "image": content})


def _batches(rows: Iterator[Arrays], size: int) -> Iterator[Arrays]:
    """Stack rows, as many as a batch may have; a graph without a mask is given rows of equal sizes alone."""
    while batch := list(islice(rows, size)):
        yield stacked(batch)

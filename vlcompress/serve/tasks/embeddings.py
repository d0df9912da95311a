"""``POST /v1/embeddings``: the vector of a text or an image, of a model that embeds each alone (CLIP and the like)."""

from typing import Any

import numpy as np

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.schemas import EmbeddingRequest, EmbeddingResponse
from vlcompress.serve.tasks.base import Logits, Prepared, is_for
from vlcompress.serve.tasks.images import accepts_images, seen
from vlcompress.serve.tasks.texts import read_text, row_of

_OTHER = np.zeros((8, 8, 3), np.uint8)
"""Stands for the image where a text is asked about: the file computes both, and they know nothing of each other."""


class EmbeddingsEndpoint:
    """See `vlcompress.serve.tasks.base.TaskEndpoint`."""

    name = "embeddings"
    request = EmbeddingRequest
    response = EmbeddingResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: a text, or a picture."""
        found = accepts_images(model) if is_for(model, "retrieval") and embeds(model) else {}
        return {**found, "text": True} if found and model.vocabulary is not None else {}

    def prepare(self, model: LoadedModel, asked: EmbeddingRequest) -> Prepared:
        """Make one row of tensors, with something of no meaning on the side that is not asked about."""
        if asked.text is not None:
            text, told = read_text(model, asked.text)
            return Prepared([row_of(model, text, _OTHER)], told, 0)
        assert asked.image is not None  # the request's own check
        text, told = read_text(model, "")
        return Prepared([row_of(model, text, seen(model, asked.image).image)], told, 1)

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> dict[str, Any]:
        """Give the vector, of length 1."""
        vector_D = logits[0, prepared.about]
        return {"embedding": (vector_D / np.linalg.norm(vector_D)).tolist()}


def embeds(model: LoadedModel) -> bool:
    """Say whether a model gives a vector of the text and one of the image, instead of a score of the pair."""
    return model.preprocessing is not None and model.preprocessing.head == "embeddings"


def cosines(embeddings_N2D: Logits) -> Logits:
    """Compare the text and the image of each pair: float64 [N], -1 to 1."""
    text_ND, image_ND = embeddings_N2D[:, 0], embeddings_N2D[:, 1]
    lengths_N = np.linalg.norm(text_ND, axis=1) * np.linalg.norm(image_ND, axis=1)
    found: Logits = (text_ND * image_ND).sum(axis=1) / lengths_N
    return found

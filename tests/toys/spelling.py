"""A toy task of the server: what word do these letters spell? Its model reads one id a letter."""

import numpy as np
from pydantic import Field

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.schemas import ScoredLabel, TaskRequest, TaskResponse
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels


class SpellingRequest(TaskRequest):
    """Letters."""

    letters: str = Field(pattern="^[a-z]+$", max_length=20, description="up to 20 letters from a to z")


class SpellingResponse(TaskResponse):
    """Words."""

    letters: int


class SpellingEndpoint:
    """``POST /v1/spelling``."""

    name = "spelling"
    request = SpellingRequest
    response = SpellingResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        names = {spec.name for spec in model.engine.inputs}
        return {"letters": True} if names == {"input_ids", "attention_mask"} else {}

    def prepare(self, model: LoadedModel, asked: SpellingRequest) -> Prepared:
        ids = np.array([[ord(letter) - ord("a") for letter in asked.letters]])
        return Prepared([{"input_ids": ids, "attention_mask": np.ones_like(ids)}], {"letters": ids.size})

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        return best_labels(logits[0], model.labels, top_k)

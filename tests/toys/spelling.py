"""A toy task of the server: what word do these letters spell? Its model reads one id a letter."""

import numpy as np
from pydantic import Field

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.schemas import ScoredLabel, TaskRequest, TaskResponse
from vlcompress.serve.tasks.base import Prepared, best_labels
from vlcompress.serve.tensors import Arrays


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
        return Prepared({"input_ids": ids, "attention_mask": np.ones_like(ids)}, {"letters": ids.size})

    def answers(self, model: LoadedModel, outputs: Arrays, top_k: int) -> list[ScoredLabel]:
        (scores,) = outputs.values()
        return best_labels(np.asarray(scores[0], dtype=np.float64), model.labels, top_k)

"""``POST /v1/vqa``, ``gqa``, ``snli_ve``: an answer of a closed list to a question about one image."""

import numpy as np

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.schemas import QuestionRequest, QuestionResponse, ScoredLabel
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels, is_for
from vlcompress.serve.tasks.images import accepts_images, image_facts, seen
from vlcompress.serve.tasks.texts import read_text, row_of


class AnsweringEndpoint:
    """A task whose models score a closed list of answers (see `vlcompress.serve.tasks.base.TaskEndpoint`)."""

    request = QuestionRequest
    response = QuestionResponse

    def __init__(self, name: str) -> None:
        """Name the task."""
        self.name = name

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: region features, or a picture."""
        readable = is_for(model, self.name) and model.vocabulary is not None and bool(model.labels)
        return accepts_images(model) if readable else {}

    def prepare(self, model: LoadedModel, asked: QuestionRequest) -> Prepared:
        """Make one row of tensors."""
        text, told = read_text(model, asked.question)
        image = seen(model, asked)
        return Prepared([row_of(model, text, image.image)], {**told, **image_facts(image)})

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        """Rank the answers; a score is the sigmoid of the answer's logit, as it was trained."""
        return best_labels(1 / (1 + np.exp(-logits[0])), model.labels, top_k)

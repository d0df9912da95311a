"""``POST /v1/classification``: the class of a picture; ``POST /v1/sentences``: that of a sentence."""

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import NO_TEXT
from vlcompress.serve.schemas import PictureRequest, PictureResponse, ScoredLabel, SentenceRequest, SentenceResponse
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels, is_for, softmax
from vlcompress.serve.tasks.images import accepts_images, image_facts, seen
from vlcompress.serve.tasks.texts import read_text, row_of


class ClassificationEndpoint:
    """See `vlcompress.serve.tasks.base.TaskEndpoint`."""

    name = "classification"
    request = PictureRequest
    response = PictureResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: a picture."""
        return accepts_images(model) if is_for(model, self.name) and model.labels else {}

    def prepare(self, model: LoadedModel, asked: PictureRequest) -> Prepared:
        """Make one row of tensors."""
        image = seen(model, asked)
        return Prepared([row_of(model, NO_TEXT, image.image)], image_facts(image))

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        """Rank the classes by their probabilities."""
        return best_labels(softmax(logits)[0], model.labels, top_k)


class SentencesEndpoint:
    """See `vlcompress.serve.tasks.base.TaskEndpoint`."""

    name = "sentences"
    request = SentenceRequest
    response = SentenceResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: a text."""
        known = model.vocabulary is not None and model.preprocessing is not None and bool(model.labels)
        return {"text": True} if is_for(model, self.name) and known else {}

    def prepare(self, model: LoadedModel, asked: SentenceRequest) -> Prepared:
        """Make one row of tensors."""
        text, told = read_text(model, asked.text)
        return Prepared([row_of(model, text, None)], told)

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        """Rank the classes by their probabilities."""
        return best_labels(softmax(logits)[0], model.labels, top_k)

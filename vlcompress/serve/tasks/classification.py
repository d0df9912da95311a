"""``POST /v1/classification``: the class of a picture."""

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import NO_TEXT
from vlcompress.serve.schemas import PictureRequest, PictureResponse, ScoredLabel
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels, is_for, softmax
from vlcompress.serve.tasks.images import accepts_images, image_facts, seen
from vlcompress.serve.tasks.texts import row_of


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

"""``POST /v1/refcoco``: which region of an image does an expression mean."""

from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.schemas import ExpressionRequest, QuestionResponse, ScoredLabel
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels, is_for, softmax
from vlcompress.serve.tasks.images import Seen, accepts_images, image_facts, seen
from vlcompress.serve.tasks.texts import read_text, row_of


class RefcocoEndpoint:
    """See `vlcompress.serve.tasks.base.TaskEndpoint`."""

    name = "refcoco"
    request = ExpressionRequest
    response = QuestionResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: region features, or a picture."""
        return accepts_images(model) if is_for(model, self.name) and model.vocabulary is not None else {}

    def prepare(self, model: LoadedModel, asked: ExpressionRequest) -> Prepared:
        """Make one row of tensors."""
        text, told = read_text(model, asked.expression)
        image = seen(model, asked)
        return Prepared([row_of(model, text, image.image)], {**told, **image_facts(image)}, image)

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        """Rank the regions; scores are probabilities over them."""
        image: Seen = prepared.about
        names = [str(region) for region in range(len(image.boxes_R4))]
        found = best_labels(softmax(logits)[0, : len(names)], names, top_k)
        for one in found:
            one["region"] = int(one["label"])
            if image.size is not None:
                one["pixels"] = _pixels(image, image.size, one["region"])
        return found


def _pixels(image: Seen, size: tuple[int, int], region: int) -> list[float]:
    """Give a region's box as x, y, width, height in pixels."""
    x1, y1, x2, y2 = image.boxes_R4[region].astype(float) * (*size, *size)
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]

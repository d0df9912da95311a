"""``POST /v1/nlvr2``: is a statement about two images true."""

from vlcompress.data.regions import Regions
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import stacked
from vlcompress.serve.refusal import invalid
from vlcompress.serve.schemas import ScoredLabel, StatementRequest, StatementResponse
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels, is_for, softmax
from vlcompress.serve.tasks.images import Seen, accepts_images, image_facts, seen
from vlcompress.serve.tasks.texts import read_text, row_of

_MASKS = ("visual_attention_mask", "pixel_mask")


class Nlvr2Endpoint:
    """See `vlcompress.serve.tasks.base.TaskEndpoint`."""

    name = "nlvr2"
    request = StatementRequest
    response = StatementResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: region features, or pictures."""
        return accepts_images(model) if is_for(model, self.name) and model.vocabulary is not None else {}

    def prepare(self, model: LoadedModel, asked: StatementRequest) -> Prepared:
        """Make two rows of tensors, the statement with the left image and with the right one.

        Raises:
            Refusal: 400: other numbers of regions than a model without a mask of them can read together.
        """
        text, told = read_text(model, asked.statement)
        left, right = seen(model, asked.left), seen(model, asked.right)
        _check_alike(model, left, right)
        rows = [row_of(model, text, image.image, side=side) for side, image in enumerate((left, right))]
        return Prepared([stacked(rows)], {**told, "left": image_facts(left), "right": image_facts(right)})

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        """Rank false and true by their probabilities."""
        return best_labels(softmax(logits)[0], model.labels, top_k)


def _check_alike(model: LoadedModel, left: Seen, right: Seen) -> None:
    counts = [len(one.image.boxes) for one in (left, right) if isinstance(one.image, Regions)]
    masked = any(spec.name in _MASKS for spec in model.engine.inputs)
    if len(set(counts)) > 1 and not masked:
        raise invalid(
            f"the left image has {counts[0]} regions and the right one {counts[1]}: model '{model.name}' has no mask "
            "of regions, give as many of both"
        )

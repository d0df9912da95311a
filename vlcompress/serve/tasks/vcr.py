"""``POST /v1/vcr``: choose an answer to a question about people in an image, or the reason for an answer."""

import re
from collections.abc import Sequence

from vlcompress.data.examples import Words
from vlcompress.data.people import ANSWER, LONGEST, QUESTION, RATIONALE, pieces
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import Text, stacked
from vlcompress.serve.refusal import invalid
from vlcompress.serve.schemas import ChoiceRequest, QuestionResponse, ScoredLabel
from vlcompress.serve.tasks.base import Logits, Prepared, best_labels, is_for, softmax
from vlcompress.serve.tasks.images import accepts_images, image_facts, seen
from vlcompress.serve.tasks.texts import longest_text, read_text, row_of

_TAG = re.compile(r"\[(\d+)\]")
"""A text's reference to one of the objects."""


class VcrEndpoint:
    """See `vlcompress.serve.tasks.base.TaskEndpoint`."""

    name = "vcr"
    request = ChoiceRequest
    response = QuestionResponse

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: region features, or a picture."""
        return accepts_images(model) if is_for(model, self.name) and model.vocabulary is not None else {}

    def prepare(self, model: LoadedModel, asked: ChoiceRequest) -> Prepared:
        """Make one row of tensors for each choice; they stay together.

        Raises:
            Refusal: 400: a text names an object that is not there, or more choices than rows of a batch.
        """
        if len(asked.choices) > model.limits.max_batch:
            raise invalid(f"{len(asked.choices)} choices are more than the {model.limits.max_batch} rows of a batch")
        image = seen(model, asked)
        texts = [_text(model, asked, choice) for choice in asked.choices]
        _, told = read_text(model, _TAG.sub("", " ".join([asked.question, asked.answer or "", *asked.choices])))
        told["question_cut"] = any(len(text.ids_T) >= _longest(model) for text in texts)
        rows = [row_of(model, text, image.image) for text in texts]
        return Prepared([stacked(rows)], {**told, **image_facts(image)}, asked.choices)

    def answers(self, model: LoadedModel, prepared: Prepared, logits: Logits, top_k: int) -> list[ScoredLabel]:
        """Rank the choices by how right each is judged; scores are probabilities over the choices."""
        return best_labels(softmax(logits[:, 1]), prepared.about, top_k)


def _text(model: LoadedModel, asked: ChoiceRequest, choice: str) -> Text:
    """Join question and choice; or question, answer and choice where that is a reason."""
    assert model.vocabulary is not None  # `accepts` has asked it
    texts = [(asked.question, QUESTION), (choice, ANSWER)]
    if asked.answer is not None:
        texts = [(asked.question, QUESTION), (asked.answer, ANSWER), (choice, RATIONALE)]
    parts = [(pieces(model.vocabulary, _words(text, asked.objects), asked.objects), segment) for text, segment in texts]
    return Text(*model.vocabulary.joined(parts, _longest(model)))


def _longest(model: LoadedModel) -> int:
    """Cut as in training, whatever a folder says that was exported before it told the task's own limit."""
    return min(longest_text(model), LONGEST)


def _words(text: str, objects: Sequence[str]) -> Words:
    """Split a text into plain words and references to objects."""
    found: list[str | tuple[int, ...]] = []
    for index, part in enumerate(_TAG.split(text)):
        if index % 2 == 0:
            found += [part.strip()] if part.strip() else []
            continue
        if len(part) > 9 or int(part) >= len(objects):
            raise invalid(f"'[{part[:20]}]' names no object: 'objects' lists {len(objects)}, counted from 0")
        found.append((int(part),))
    return tuple(found)

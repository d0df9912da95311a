"""Answering about one image: a question and region features, or a picture where the model's regions can be computed.

Shapes: R regions, D feature width, T words, L labels.
"""

import base64
import binascii
import io
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vlcompress.data.pictures import as_rgb
from vlcompress.data.regions import Regions
from vlcompress.data.tokenizer import WordPiece
from vlcompress.serve.demo import Demo, DemoPicture
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import Pixels, bare_regions
from vlcompress.serve.refusal import Refusal, invalid, shown
from vlcompress.serve.schemas import QuestionFacts, QuestionRequest, QuestionResponse, ScoredLabel
from vlcompress.serve.tasks.base import Prepared, best_labels, matrix, not_for_task
from vlcompress.serve.tensors import Arrays

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 25_000_000

Boxes = NDArray[np.float32]
Origin = Literal["stored", "given", "proposed", "none"]


class AnsweringEndpoint:
    """``POST /v1/vqa`` and its like (see `vlcompress.serve.tasks.base.TaskEndpoint`)."""

    request = QuestionRequest
    response = QuestionResponse

    def __init__(self, name: str) -> None:
        """Make the endpoint of a task whose models score a closed list of answers about one image."""
        self.name = name

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with: region features, or a picture.

        A model that reads regions needs a detector for a picture: there is one for models of the demo's data. One that
        reads pixels takes any picture.
        """
        told = model.origin.get("task", "vqa" if self.name == "vqa" else "")
        if told != self.name or model.vocabulary is None or not model.labels:
            return {}
        if model.preprocessing is None or not model.preprocessing.fills(model.engine.inputs):
            return {}
        if model.preprocessing.reads == "pixels":
            return {"features": False, "image": True}
        detects = model.demo is not None and model.demo().detects_for(model.vocabulary.tokens, _feature_dim(model))
        return {"features": True, "image": detects}

    def prepare(self, model: LoadedModel, asked: QuestionRequest) -> Prepared:
        """Make one row of tensors."""
        accepted = self.accepts(model)
        if not accepted or model.vocabulary is None or model.preprocessing is None:
            raise not_for_task(model, self.name)
        if not accepted["image" if asked.features is None else "features"]:
            raise _wrong_kind(model, asked)
        longest = min(model.preprocessing.longest_text, model.limits.axes.get("text", 1 << 30))
        ids_T, cut = _ids(model.vocabulary, asked.question, longest)
        image: Regions | Pixels
        origin: Origin
        if model.preprocessing.reads == "pixels":
            image, boxes_R4, origin = _pixels(model, asked), np.zeros((0, 4), np.float32), "none"
        else:
            image, origin = _regions(model, asked)
            boxes_R4 = image.normalized_boxes
        facts = QuestionFacts(
            boxes=np.round(boxes_R4.astype(np.float64), 4).tolist(),
            boxes_from=origin,
            question_cut=cut,
            unknown_words=_unknown_words(model.vocabulary, asked.question),
        )
        return Prepared(model.preprocessing.row(model.engine.inputs, ids_T, image), facts)

    def answers(self, model: LoadedModel, outputs: Arrays, top_k: int) -> list[ScoredLabel]:
        """Rank the answers; a score is the sigmoid of the answer's logit, as it was trained."""
        (logits_1L,) = outputs.values()
        scores_L = 1 / (1 + np.exp(-logits_1L[0].astype(np.float64)))
        return best_labels(scores_L, model.labels, top_k)


def demo_picture(opened: Callable[[], Demo] | None, name: object) -> DemoPicture:
    """Take a built-in picture with its boxes and questions.

    Raises:
        Refusal: 404: there is none of that name.
    """
    demo = None if opened is None else opened()
    if demo is None or name not in demo.names:
        raise Refusal(404, f"no built-in picture '{shown(name)}': GET /v1 lists them", "not_found")
    return demo.picture(str(name))


def read_picture(content: object) -> Image.Image:
    """Decode a picture from base64 (a data URL is fine): RGB.

    Raises:
        Refusal: 400: broken base64, another format, too many pixels, a broken file.
    """
    if not isinstance(content, str):
        raise invalid("'image' is not base64 text")
    try:
        data = base64.b64decode(content.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"'image' is not valid base64: {error}") from None
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise invalid(f"the picture has {picture.width} x {picture.height} pixels: at most 25 million are accepted")
        picture.draft("RGB", (1024, 1024))  # a large JPEG is decoded small: less time and memory
        return as_rgb(_on_white(ImageOps.exif_transpose(picture)))
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError):
        raise invalid(f"'image' is not a picture in one of {', '.join(FORMATS)}, or it is damaged") from None


def _on_white(picture: Image.Image) -> Image.Image:
    """Show transparent parts as a page does: what colour is stored under them means nothing."""
    if not picture.has_transparency_data:
        return picture
    above = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)


def _pixels(model: LoadedModel, asked: QuestionRequest) -> Pixels:
    if asked.picture is None:
        return np.asarray(read_picture(asked.image))
    return np.asarray(Image.open(io.BytesIO(demo_picture(model.demo, asked.picture).jpeg)).convert("RGB"))


def _regions(model: LoadedModel, asked: QuestionRequest) -> tuple[Regions, Origin]:
    """Take or make the regions, and say where their boxes came from."""
    if asked.picture is not None:
        return demo_picture(model.demo, asked.picture).regions, "stored"
    if asked.features is not None:
        features_RD = matrix(asked.features, "features", _feature_dim(model))
        boxes_R4 = _boxes(asked)
        if len(boxes_R4) != len(features_RD):
            raise invalid(f"there are {len(features_RD)} rows of features and {len(boxes_R4)} boxes")
        return bare_regions(boxes_R4, features_RD), "given"
    assert model.demo is not None  # `accepts` has asked it
    picture = read_picture(asked.image)
    if asked.boxes is None:
        return model.demo().detect(picture, None), "proposed"
    return model.demo().detect(picture, _boxes(asked)), "given"


def _boxes(asked: QuestionRequest) -> Boxes:
    boxes_R4 = matrix(asked.boxes, "boxes", 4)
    x1, y1, x2, y2 = boxes_R4.T
    if boxes_R4.min() < 0 or boxes_R4.max() > 1 or (x2 <= x1).any() or (y2 <= y1).any():
        raise invalid("'boxes' are corners x1, y1, x2, y2 with 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")
    return boxes_R4


def _ids(vocabulary: WordPiece, question: str, longest: int) -> tuple[NDArray[np.int64], bool]:
    """Tokenise a question, and tell whether it had to be cut."""
    (ids_T,) = vocabulary.encode([question], longest)
    return ids_T, vocabulary.encode([question], longest + 1).shape[1] > longest


def _wrong_kind(model: LoadedModel, asked: QuestionRequest) -> Refusal:
    if asked.features is not None:
        return invalid(f"model '{model.name}' takes no features: it reads pictures")
    return invalid(f"model '{model.name}' takes no pictures: it needs 'features' of its own region detector")


def _feature_dim(model: LoadedModel) -> int:
    spec = next(spec for spec in model.engine.inputs if spec.name == "visual_feats")
    return int(spec.shape[-1])


def _unknown_words(vocabulary: WordPiece, question: str) -> list[str]:
    """List words that the model reads as [UNK], each once."""
    words = dict.fromkeys(question.lower().replace("?", " ").split())
    return [word for word in words if vocabulary.unk_id in vocabulary.encode([word])]

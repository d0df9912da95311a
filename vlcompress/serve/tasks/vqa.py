"""Visual question answering: a question and region features, or a picture where the model uses the built-in encoder."""

import base64
import binascii
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vlcompress.data.scenes.encoder import FEATURE_DIM, encode
from vlcompress.data.scenes.proposals import propose
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.scenes.world import HEIGHT, WIDTH
from vlcompress.data.tokenizer import WordPiece
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.pictures import picture_named
from vlcompress.serve.refusal import invalid
from vlcompress.serve.tasks.base import Json, Prepared, best_labels, matrix, not_for_task, text
from vlcompress.serve.tensors import Arrays
from vlcompress.tasks.reading import MAX_WORDS

INPUTS = {"input_ids", "attention_mask", "visual_feats", "visual_pos"}
_LONGEST = MAX_WORDS["lxmert"]  # the family whose inputs these are
FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 25_000_000
_SIZE_4 = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], dtype=np.float32)
_ONE_OF = ("picture", "image", "features")


class VqaEndpoint:
    """``POST /v1/vqa`` (see `vlcompress.serve.tasks.base.TaskEndpoint`)."""

    name = "vqa"

    def accepts(self, model: LoadedModel) -> dict[str, bool]:
        """Say what a model can be asked with.

        A picture needs the built-in region encoder: the model then has its feature width and the built-in words.
        """
        if {spec.name for spec in model.engine.inputs} != INPUTS or model.vocabulary is None or not model.labels:
            return {}
        built_in = _feature_dim(model) == FEATURE_DIM and list(model.vocabulary.tokens) == list(tokens())
        return {"features": True, "image": built_in}

    def prepare(self, model: LoadedModel, request: Json) -> Prepared:
        """Make one row of tensors."""
        accepted = self.accepts(model)
        if not accepted or model.vocabulary is None:
            raise not_for_task(model, self.name)
        given = [name for name in _ONE_OF if request.get(name) is not None]
        if len(given) != 1:
            raise invalid(f"give exactly one of {', '.join(_ONE_OF)}: there is {' and '.join(given) or 'none'}")
        if given[0] != "features" and not accepted["image"]:
            raise invalid(f"model '{model.name}' takes no pictures: it needs 'features' of its own region detector")
        question = text(request, "question")
        features_RD, boxes_R4, origin = _regions(model, request, given[0])
        longest = min(_LONGEST, model.limits.axes.get("text", _LONGEST))
        whole = model.vocabulary.encode([question], 10 * _LONGEST)
        ids_1T = model.vocabulary.encode([question], longest)
        inputs: Arrays = {
            "input_ids": ids_1T,
            "attention_mask": np.ones_like(ids_1T),
            "visual_feats": features_RD[None],
            "visual_pos": boxes_R4[None],
        }
        facts = {
            "boxes": np.round(boxes_R4.astype(np.float64), 4).tolist(),
            "boxes_from": origin,
            "question_cut": whole.shape[1] > longest,
            "unknown_words": _unknown_words(model.vocabulary, question),
        }
        return Prepared(inputs, facts)

    def answers(self, model: LoadedModel, outputs: Arrays, top_k: int) -> list[Json]:
        """Give the best answers; a score is the sigmoid of the answer's logit, as it was trained."""
        (logits_1L,) = outputs.values()
        scores_L = 1 / (1 + np.exp(-logits_1L[0].astype(np.float64)))
        return best_labels(scores_L, model.labels, top_k)


def _regions(model: LoadedModel, request: Json, kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """Give features [R, D], boxes [R, 4] in 0..1, and where the boxes came from."""
    if kind == "picture":
        stored = picture_named(request["picture"]).regions
        return stored.features, stored.normalized_boxes, "stored"
    if kind == "features":
        features_RD = matrix(request, "features", _feature_dim(model))
        boxes_R4 = _boxes(request)
        if len(boxes_R4) != len(features_RD):
            raise invalid(f"there are {len(features_RD)} rows of features and {len(boxes_R4)} boxes")
        return features_RD, boxes_R4, "given"
    # The encoder knows pictures of one size, so others are stretched to it; boxes in 0..1 stay the same.
    picture = read_picture(request["image"]).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    given = request.get("boxes") is not None
    boxes_R4 = _boxes(request) if given else propose(picture) / _SIZE_4
    return encode(picture, boxes_R4 * _SIZE_4), boxes_R4, "given" if given else "proposed"


def _boxes(request: Json) -> NDArray[np.float32]:
    boxes_R4 = matrix(request, "boxes", 4)
    x1, y1, x2, y2 = boxes_R4.T
    if boxes_R4.min() < 0 or boxes_R4.max() > 1 or (x2 <= x1).any() or (y2 <= y1).any():
        raise invalid("'boxes' are corners x1, y1, x2, y2 with 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")
    return boxes_R4


def _feature_dim(model: LoadedModel) -> int:
    spec = next(spec for spec in model.engine.inputs if spec.name == "visual_feats")
    return int(spec.shape[-1])


def _unknown_words(vocabulary: WordPiece, question: str) -> list[str]:
    """List words that the model reads as [UNK], each once."""
    words = dict.fromkeys(question.lower().replace("?", " ").split())
    return [word for word in words if vocabulary.unk_id in vocabulary.encode([word])]


def read_picture(content: object) -> Image.Image:
    """Decode a picture from base64 (a data URL is fine): RGB.

    Raises:
        Refusal: 400: broken base64, another format, too many pixels, a broken file.
    """
    if not isinstance(content, str):
        raise invalid("'image' is not base64 text")
    try:
        data = base64.b64decode(content.rpartition("base64,")[2], validate=True)
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise invalid(f"the picture has {picture.width} x {picture.height} pixels: at most 25 million are accepted")
        picture.draft("RGB", (4 * WIDTH, 4 * HEIGHT))  # a large JPEG is decoded small: less time and memory
        return picture.convert("RGB")
    except (binascii.Error, ValueError) as error:
        raise invalid(f"'image' is not valid base64: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, Image.DecompressionBombError):
        raise invalid(f"'image' is not a picture in one of {', '.join(FORMATS)}, or it is damaged") from None

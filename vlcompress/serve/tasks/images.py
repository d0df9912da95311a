"""The image of a request: named, sent as a file, or told by features of its regions.

Shapes: R regions, D feature width.
"""

import base64
import binascii
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vlcompress.data.pictures import as_rgb
from vlcompress.data.regions import Regions
from vlcompress.serve.demo import Demo, DemoPicture
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import Image as Read
from vlcompress.serve.preprocessing import bare_regions
from vlcompress.serve.refusal import Refusal, invalid, shown
from vlcompress.serve.schemas import ImageFacts, ImageInput, Origin
from vlcompress.serve.tasks.base import matrix

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 25_000_000

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """An image as a model reads it.

    Attributes:
        image: regions or pixels.
        origin: where its boxes came from.
        size: width and height in pixels; None where only features were given.
    """

    image: Read
    origin: Origin
    size: tuple[int, int] | None = None

    @property
    def boxes_R4(self) -> Boxes:
        """Corners of the regions as fractions, float32 [R, 4]; none of a model that reads pixels."""
        return self.image.normalized_boxes if isinstance(self.image, Regions) else np.zeros((0, 4), np.float32)


def accepts_images(model: LoadedModel) -> dict[str, bool]:
    """Say what a model can be shown: region features, or a picture; {} where its inputs cannot be made here.

    A model that reads regions needs a detector for a picture: there is one for models of the demo's data. One that
    reads pixels takes any picture.
    """
    if model.preprocessing is None or not model.preprocessing.fills(model.engine.inputs):
        return {}
    if model.preprocessing.reads == "pixels":
        return {"features": False, "image": True}
    words = model.vocabulary.tokens if model.vocabulary is not None else ()
    return {"features": True, "image": model.demo is not None and model.demo().detects_for(words, feature_dim(model))}


def seen(model: LoadedModel, asked: ImageInput) -> Seen:
    """Take or make what a model reads of an image.

    Raises:
        Refusal: 400: of the wrong kind, or broken; 404: no such built-in picture.
    """
    accepted = accepts_images(model)
    if not accepted.get("image" if asked.features is None else "features"):
        raise _wrong_kind(model, asked)
    if asked.features is not None:
        boxes_R4, features_RD = _given(asked, feature_dim(model))
        return Seen(bare_regions(boxes_R4, features_RD), "given", _told_size(asked))
    if model.preprocessing is not None and model.preprocessing.reads == "pixels":
        picture = _picture(model, asked)
        return Seen(np.asarray(picture), "none", picture.size)
    if asked.picture is not None:
        stored = demo_picture(model.demo, asked.picture).regions
        return Seen(stored, "stored", (stored.width, stored.height))
    assert model.demo is not None  # `accepts_images` has asked it
    picture, size = read_picture(asked.image)
    if asked.boxes is None:
        return Seen(model.demo().detect(picture, None), "proposed", size)
    return Seen(model.demo().detect(picture, _boxes(asked.boxes)), "given", size)


def image_facts(image: Seen) -> ImageFacts:
    """Tell what was made of an image."""
    return ImageFacts(boxes=np.round(image.boxes_R4.astype(np.float64), 4).tolist(), boxes_from=image.origin)


def demo_picture(opened: Callable[[], Demo] | None, name: object) -> DemoPicture:
    """Take a built-in picture with its boxes and questions.

    Raises:
        Refusal: 404: there is none of that name.
    """
    demo = None if opened is None else opened()
    if demo is None or name not in demo.names:
        raise Refusal(404, f"no built-in picture '{shown(name)}': GET /v1 lists them", "not_found")
    return demo.picture(str(name))


def read_picture(content: object) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture from base64 (a data URL is fine): RGB, and the width and height that it was sent with.

    A large JPEG is decoded smaller than it was sent.

    Raises:
        Refusal: 400: broken base64, another format, too many pixels, a broken file.
    """
    return decoded(_bytes(content, "image"))


def decoded(data: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture's file; see `read_picture`."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise invalid(f"the picture has {picture.width} x {picture.height} pixels: at most 25 million are accepted")
        width, height = picture.size
        if picture.getexif().get(_ORIENTATION, 1) >= _ON_ITS_SIDE:
            width, height = height, width
        picture.draft("RGB", (1024, 1024))  # a large JPEG is decoded small: less time and memory
        return as_rgb(_on_white(ImageOps.exif_transpose(picture))), (width, height)
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError):
        raise invalid(f"'image' is not a picture in one of {', '.join(FORMATS)}, or it is damaged") from None


_ORIENTATION, _ON_ITS_SIDE = 0x0112, 5
"""EXIF's tag for how a camera was held, and the first of its values that swap width and height."""


def feature_dim(model: LoadedModel) -> int:
    """Look up the width of a region's features."""
    spec = next(spec for spec in model.engine.inputs if spec.name in ("visual_feats", "visual_embeds"))
    return int(spec.shape[-1])


def _on_white(picture: Image.Image) -> Image.Image:
    """Show transparent parts as a page does: what colour is stored under them means nothing."""
    if not picture.has_transparency_data:
        return picture
    above = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)


def _picture(model: LoadedModel, asked: ImageInput) -> Image.Image:
    if asked.picture is None:
        return read_picture(asked.image)[0]
    return decoded(demo_picture(model.demo, asked.picture).jpeg)[0]


def _bytes(content: object, field: str) -> bytes:
    if not isinstance(content, str):
        raise invalid(f"'{field}' is not base64 text")
    try:
        return base64.b64decode(content.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"'{field}' is not valid base64: {error}") from None


def _given(asked: ImageInput, width: int) -> tuple[Boxes, NDArray[np.float32]]:
    """Read boxes and features: lists of numbers, or both in an .npz file in base64."""
    features, boxes = asked.features, asked.boxes
    if isinstance(features, str):
        arrays = _archive(_bytes(features, "features"))
        features, boxes = arrays["features"].tolist(), arrays["boxes"].tolist() if "boxes" in arrays else boxes
    features_RD, boxes_R4 = matrix(features, "features", width), _boxes(boxes)
    if len(boxes_R4) != len(features_RD):
        raise invalid(f"there are {len(features_RD)} rows of features and {len(boxes_R4)} boxes")
    return boxes_R4, features_RD


def _archive(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Read "features" and "boxes" of an .npz file, sizes checked before memory is taken."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise invalid(f"'features' unpacks to more than {MOST_BYTES >> 20} MiB: send fewer regions")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("features", "boxes") if name in arrays.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError):
        raise invalid("'features' is text, but no .npz file in base64: give 'features' and 'boxes' in one") from None
    if "features" not in found or any(array.ndim != 2 for array in found.values()):
        raise invalid("the .npz file of 'features' lacks a matrix 'features': give it [regions, width], 'boxes' beside")
    if any(array.dtype.kind != "f" for array in found.values()):
        raise invalid("the .npz file of 'features' holds something else than floating-point numbers")
    return found


MOST_BYTES = 64 << 20
"""Of an unpacked .npz file."""


def _told_size(asked: ImageInput) -> tuple[int, int] | None:
    return None if asked.width is None or asked.height is None else (asked.width, asked.height)


def _boxes(rows: object) -> Boxes:
    boxes_R4 = matrix(rows, "boxes", 4)
    x1, y1, x2, y2 = boxes_R4.T
    if boxes_R4.min() < 0 or boxes_R4.max() > 1 or (x2 <= x1).any() or (y2 <= y1).any():
        raise invalid("'boxes' are corners x1, y1, x2, y2 with 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")
    return boxes_R4


def _wrong_kind(model: LoadedModel, asked: ImageInput) -> Refusal:
    if asked.features is not None:
        return invalid(f"model '{model.name}' takes no features: it reads pictures")
    return invalid(f"model '{model.name}' takes no pictures: it needs 'features' of its own region detector")

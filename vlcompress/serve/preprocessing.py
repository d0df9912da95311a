"""From texts and images to the tensors of a request, with numpy and Pillow alone.

What differs between models is in the artefact's preprocessing.json; it comes from
`vlcompress.models.base.Family.preprocessing`. `tests/serve/test_preprocessing.py` compares with `Family.collate`.

Shapes: T words, R regions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.pixels import HALF, framed, normalized, resized, square
from vlcompress.data.regions import Regions
from vlcompress.serve.tensors import Array, Arrays, TensorSpec

Ids = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Image = Regions | Pixels


@dataclass(frozen=True)
class Text:
    """Token ids int64 [T], [CLS] and [SEP] included, and the segment of each; None is segment 0."""

    ids_T: Ids
    types_T: Ids | None = None


NO_TEXT = Text(np.zeros(0, np.int64))


@dataclass(frozen=True)
class Preprocessing:
    """What a model reads.

    Attributes:
        reads: "regions" or "pixels".
        longest_text: in word pieces, [CLS] and [SEP] included; 0 reads no text.
        shorter: pixels of a picture's shorter side.
        multiple: both sides are floored to a multiple of this.
        square: pixels of a side, where a picture is cut to its middle square.
        mean, std: of the channels.
        head: of the model ("answers", "embeddings", ...); "" where its file does not say so.
        picture: of an encoder of transformers, how a picture is framed and scaled (`vlcompress.data.pixels.framed`).
        text: of such a one, padding's id "pad", and whether every row is padded to the longest text, "whole".
    """

    reads: str
    longest_text: int
    shorter: int = 0
    multiple: int = 0
    square: int = 0
    mean: Sequence[float] = HALF
    std: Sequence[float] = HALF
    head: str = ""
    picture: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Preprocessing":
        """Read it from its file; what this server has no use for is left out."""
        return cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})

    def fills(self, specs: Sequence[TensorSpec]) -> bool:
        """Say whether every input of a model can be made of a text and an image."""
        image = _OF_REGIONS if self.reads == "regions" else _OF_PIXELS if self.takes_pictures else {}
        names, text = {spec.name for spec in specs}, _OF_TEXT if self.longest_text else {}
        return names <= {*text, *image} and ("input_ids" in names) == bool(self.longest_text)

    @property
    def takes_pictures(self) -> bool:
        """Whether it is told how a picture becomes pixels."""
        return self.reads == "pixels" and bool(self.shorter or self.square or self.picture)

    def row(self, specs: Sequence[TensorSpec], text: Text, image: Image | None, *, side: int = 0) -> Arrays:
        """Make the inputs of one row.

        Args:
            specs: the model's inputs, which `fills` says yes to.
            text: the words.
            image: regions, or an RGB picture uint8 [height, width, 3] of any size; None of a model that reads words.
            side: 0 for the left or only image, 1 for the right one.
        """
        if isinstance(image, Regions):
            makers: Mapping[str, Callable[[Regions], Array]] = _OF_REGIONS
            found = {spec.name: makers[spec.name](image) for spec in specs if spec.name in makers}
            if wide := [spec for spec in specs if spec.name == "visual_pos" and spec.shape[-1] == 7]:
                found[wide[0].name] = image.position_features  # UNITER's
            if "visual_type_ids" in found:
                found["visual_type_ids"] = np.full(len(image.boxes), 1 + side, np.int64)
        elif image is None:
            found = {}
        else:
            scaled = self._scaled(image)
            found = {spec.name: _OF_PIXELS[spec.name](scaled) for spec in specs if spec.name in _OF_PIXELS}
        words = self._whole(text) if self.text.get("whole") else text
        found |= {spec.name: _OF_TEXT[spec.name](words) for spec in specs if spec.name in _OF_TEXT}
        return {name: np.ascontiguousarray(array)[None] for name, array in found.items()}

    def _scaled(self, image: Pixels) -> NDArray[np.float32]:
        if self.picture:
            size = {name: self.picture[name] for name in ("height", "width", "crop", "resample")}
            return normalized(framed(image, **size), self.picture["mean"], self.picture["std"])
        picture = square(image, self.square) if self.square else resized(image, self.shorter, self.multiple)
        return normalized(picture, self.mean, self.std)

    def _whole(self, text: Text) -> Text:
        """Pad to the longest text, as a model that has no mask was trained (SigLIP)."""
        missing = self.longest_text - len(text.ids_T)
        return Text(np.pad(text.ids_T, (0, missing), constant_values=self.text["pad"]))


def stacked(rows: Sequence[Arrays]) -> Arrays:
    """Put rows of one request into one batch, with zeros after the shorter ones, as training pads them."""
    found: Arrays = {}
    for name, first in rows[0].items():
        parts = [row[name] for row in rows]
        shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        found[name] = np.zeros((len(parts), *shape), first.dtype)
        for index, part in enumerate(parts):
            corner = tuple(slice(size) for size in part.shape[1:])
            found[name][index][corner] = part[0]
    return found


def bare_regions(boxes_R4: NDArray[np.float32], features_RD: NDArray[np.float32]) -> Regions:
    """Make regions of boxes in 0..1; what a detector would say of them is not known, and no model reads it."""
    nothing = np.full(len(boxes_R4), -1, dtype=np.int64)
    unsure = np.zeros(len(boxes_R4), dtype=np.float32)
    return Regions("", 1, 1, boxes_R4, features_RD, nothing, unsure, nothing, unsure)


_OF_TEXT: Mapping[str, Callable[[Text], Array]] = {
    "input_ids": lambda text: text.ids_T,
    "attention_mask": lambda text: np.ones_like(text.ids_T),
    "token_type_ids": lambda text: np.zeros_like(text.ids_T) if text.types_T is None else text.types_T,
}
_OF_REGIONS: Mapping[str, Callable[[Regions], Array]] = {
    "visual_feats": lambda regions: regions.features,
    "visual_embeds": lambda regions: regions.features,
    "visual_pos": lambda regions: regions.normalized_boxes,
    "visual_attention_mask": lambda regions: np.ones(len(regions.boxes), np.int64),
    "visual_type_ids": lambda regions: np.ones(len(regions.boxes), np.int64),
}
_OF_PIXELS: Mapping[str, Callable[[NDArray[np.float32]], Array]] = {
    "pixel_values": lambda scaled: scaled.transpose(2, 0, 1),
    "pixel_mask": lambda scaled: np.ones(scaled.shape[:2], np.bool_),
}

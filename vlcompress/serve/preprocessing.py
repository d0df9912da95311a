"""From a question and an image to the tensors of one row, with numpy and Pillow alone.

What differs between models is in the artefact's manifest, under "preprocessing"; it comes from
`vlcompress.models.base.Family.preprocessing`. `tests/serve/test_preprocessing.py` compares with `Family.collate`.

Shapes: T words, R regions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.pixels import normalized, resized
from vlcompress.data.regions import Regions
from vlcompress.serve.tensors import Array, Arrays, TensorSpec

Ids = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """What a model reads.

    Attributes:
        reads: "regions" or "pixels".
        longest_text: in word pieces, [CLS] and [SEP] included.
        shorter: pixels of a picture's shorter side.
        multiple: both sides are floored to a multiple of this.
    """

    reads: str
    longest_text: int
    shorter: int = 0
    multiple: int = 0

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Preprocessing":
        """Read it from a manifest; what this server does not know (a square cut) is left out."""
        return cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})

    def fills(self, specs: Sequence[TensorSpec]) -> bool:
        """Say whether every input of a model can be made of a question and an image."""
        image = _OF_REGIONS if self.reads == "regions" else _OF_PIXELS if self.shorter else {}
        names = {spec.name for spec in specs}
        return "input_ids" in names and names <= {*_OF_TEXT, *image}

    def row(self, specs: Sequence[TensorSpec], ids_T: Ids, image: Regions | Pixels) -> Arrays:
        """Make the inputs of one row.

        Args:
            specs: the model's inputs, which `fills` says yes to.
            ids_T: int64 [T], [CLS] and [SEP] included.
            image: regions, or an RGB picture uint8 [height, width, 3] of any size.
        """
        if isinstance(image, Regions):
            makers: Mapping[str, Callable[[Regions], Array]] = _OF_REGIONS
            found = {spec.name: makers[spec.name](image) for spec in specs if spec.name in makers}
            if wide := [spec for spec in specs if spec.name == "visual_pos" and spec.shape[-1] == 7]:
                found[wide[0].name] = image.position_features  # UNITER's
        else:
            picture = resized(image, self.shorter, self.multiple)
            found = {spec.name: _OF_PIXELS[spec.name](picture) for spec in specs if spec.name in _OF_PIXELS}
        found |= {spec.name: _OF_TEXT[spec.name](ids_T) for spec in specs if spec.name in _OF_TEXT}
        return {name: array[None] for name, array in found.items()}


def bare_regions(boxes_R4: NDArray[np.float32], features_RD: NDArray[np.float32]) -> Regions:
    """Make regions of boxes in 0..1; what a detector would say of them is not known, and no model reads it."""
    nothing = np.full(len(boxes_R4), -1, dtype=np.int64)
    unsure = np.zeros(len(boxes_R4), dtype=np.float32)
    return Regions("", 1, 1, boxes_R4, features_RD, nothing, unsure, nothing, unsure)


_OF_TEXT: Mapping[str, Callable[[Ids], Array]] = {
    "input_ids": lambda ids_T: ids_T,
    "attention_mask": np.ones_like,
    "token_type_ids": np.zeros_like,
}
_OF_REGIONS: Mapping[str, Callable[[Regions], Array]] = {
    "visual_feats": lambda regions: regions.features,
    "visual_pos": lambda regions: regions.normalized_boxes,
    "visual_attention_mask": lambda regions: np.ones(len(regions.boxes), np.int64),
    "visual_type_ids": lambda regions: np.ones(len(regions.boxes), np.int64),
}
_OF_PIXELS: Mapping[str, Callable[[Pixels], Array]] = {
    "pixel_values": lambda picture: normalized(picture).transpose(2, 0, 1),
    "pixel_mask": lambda picture: np.ones(picture.shape[:2], np.bool_),
}

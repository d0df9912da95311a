"""The built-in data as a demo: held-out pictures, made when they are asked for, and the frozen region encoder."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlcompress.data.regions import Regions
from vlcompress.data.scenes.encoder import FEATURE_DIM, encode
from vlcompress.data.scenes.make import Picture, make_picture
from vlcompress.data.scenes.proposals import propose
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.data.scenes.world import HEIGHT, WIDTH
from vlcompress.data.scenes.write import ScenesRecipe
from vlcompress.serve.preprocessing import bare_regions

_PART = ScenesRecipe().parts["minival"]
_SEED = 0
_COUNT = 12
_SIZE_4 = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], dtype=np.float32)


class Scenes:
    """Pictures of the split that models are scored on, never trained on (see `vlcompress.serve.demo.Demo`)."""

    names = tuple(_PART.image_name(_PART.first_number + index) for index in range(_COUNT))

    def picture(self, name: str) -> Picture:
        """Make a picture with its boxes and questions."""
        return _made(self.names.index(name))

    def detects_for(self, words: Sequence[str], feature_dim: int) -> bool:
        """Compare feature width and vocabulary with the built-in data's."""
        return feature_dim == FEATURE_DIM and list(words) == list(tokens())

    def detect(self, picture: Image.Image, boxes_R4: NDArray[np.float32] | None) -> Regions:
        """Stretch the picture to the encoder's one size, where boxes in 0..1 stay the same, and describe its boxes."""
        stretched = picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        boxes_R4 = propose(stretched) / _SIZE_4 if boxes_R4 is None else boxes_R4
        return bare_regions(boxes_R4, encode(stretched, boxes_R4 * _SIZE_4))


@lru_cache(maxsize=_COUNT)
def _made(index: int) -> Picture:
    return make_picture(_SEED, _PART, _PART.first_number + index)

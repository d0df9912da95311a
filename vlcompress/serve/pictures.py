"""Built-in pictures to try a model on: held-out ones of the built-in data, made when they are asked for."""

from functools import lru_cache

from vlcompress.data.scenes.make import Picture, make_picture
from vlcompress.data.scenes.write import Recipe
from vlcompress.serve.refusal import Refusal, shown

COUNT = 12
_SEED = 0
_PART = Recipe().parts["minival"]
NAMES = tuple(_PART.image_name(_PART.first_number + index) for index in range(COUNT))
"""Pictures of the split that models are scored on, never trained on."""


def picture_named(name: object) -> Picture:
    """Return a built-in picture with its boxes and questions.

    Raises:
        Refusal: 404: there is none of that name.
    """
    if name not in NAMES:
        raise Refusal(404, f"no built-in picture '{shown(name)}': GET /v1 lists them", "not_found")
    return _made(NAMES.index(str(name)))


@lru_cache(maxsize=COUNT)
def _made(index: int) -> Picture:
    return make_picture(_SEED, _PART, _PART.first_number + index)

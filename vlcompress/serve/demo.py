"""What a server may be given to be tried with: pictures and questions, and a detector for models of their kind.

The server imports none of it. Whoever starts it says where it is (`vlcompress.serve.settings.Settings.demo`).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlcompress.data.regions import Regions


class DemoQuestion(Protocol):
    """A question about a demo picture."""

    @property
    def sentence(self) -> str:
        """The question."""

    @property
    def majority(self) -> str:
        """What annotators answered most often."""


class DemoPicture(Protocol):
    """A picture with what a detector found in it."""

    @property
    def jpeg(self) -> bytes:
        """The file."""

    @property
    def regions(self) -> Regions:
        """Its regions."""

    @property
    def questions(self) -> Sequence[DemoQuestion]:
        """What may be asked about it."""


class Demo(Protocol):
    """The pictures, by name, and their detector."""

    names: tuple[str, ...]

    def picture(self, name: str) -> DemoPicture:
        """Make or read the picture of one of `names`."""

    def detects_for(self, words: Sequence[str], feature_dim: int) -> bool:
        """Say whether a model with these words and this feature width was trained on the detector's features."""

    def detect(self, picture: Image.Image, boxes_R4: NDArray[np.float32] | None) -> Regions:
        """Describe these boxes (corners in 0..1) of any RGB picture; None proposes boxes."""

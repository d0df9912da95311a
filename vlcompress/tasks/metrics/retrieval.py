"""Recall at k of image-text retrieval, both ways, from scores that come in blocks and are not kept.

What counts of a query is how many wrong candidates score above its right one. That needs the right pairs' scores
first and then one look at every other pair, so the memory is that of texts and images, not of their pairs.

Shapes: T texts, I images; t and i those of a block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

KS = (1, 5, 10)


class Ranks:
    """Ranks of the right candidates, counted block by block.

    A wrong candidate that scores exactly as high as the right one counts as above it, so a model that scores all alike
    finds nothing.

    Args:
        image_of: for each text the row of its image.
        images: how many there are; each has a text at least.
    """

    def __init__(self, image_of: Sequence[int], images: int) -> None:
        self.image_of_T = torch.tensor(image_of)
        self._right_T = torch.full((len(image_of),), -torch.inf)
        self._best_I = torch.full((images,), -torch.inf)
        self.image_rank_T = torch.zeros(len(image_of), dtype=torch.int64)
        self.text_rank_I = torch.zeros(images, dtype=torch.int64)

    def right(self, texts: slice, scores_t: Tensor) -> None:
        """Take the scores of some texts with their own images; all texts must have come before `block` is called."""
        self._right_T[texts] = scores_t
        self._best_I.scatter_reduce_(0, self.image_of_T[texts], scores_t, "amax")

    def block(self, texts: slice, images: slice, scores_ti: Tensor) -> None:
        """Count a block of the score matrix; every pair must come once. Scores of right pairs in it are not read."""
        images_i = torch.arange(images.start, images.stop)
        wrong_ti = self.image_of_T[texts][:, None] != images_i
        self.image_rank_T[texts] += ((scores_ti >= self._right_T[texts][:, None]) & wrong_ti).sum(dim=1)
        self.text_rank_I[images] += ((scores_ti >= self._best_I[images]) & wrong_ti).sum(dim=0)

    def recalls(self) -> dict[str, float]:
        """Compute "image R@k" (images for a text) and "text R@k" (one of an image's texts), each in [0, 1]."""
        ranks = {"image": self.image_rank_T, "text": self.text_rank_I}
        return {f"{what} R@{k}": float((rank < k).double().mean()) for what, rank in ranks.items() for k in KS}

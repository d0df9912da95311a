"""Retrieval by two towers (CLIP, SigLIP): a text and an image are embedded once each, and every pair is a product.

Shapes: B batch; T texts, I images; D width of the space that both share.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlcompress.models.base import Head
from vlcompress.tasks.base import Answer, finite

HEAD = Head("embeddings")
BLOCK = 4096
"""Texts, and images, of a block of the score matrix."""

Inputs = Callable[[list[tuple[int, int]]], dict[str, Tensor]]
"""Makes the inputs of (text, image) pairs."""


def contrast(embedded_B2D: Tensor, image_B: Tensor) -> Tensor:
    """Compute CLIP's loss: the mean cross entropy of finding each text's image in the batch, and each image's text.

    Args:
        embedded_B2D: as of the head "embeddings".
        image_B: int64, which image it is; a second caption of one image is no wrong answer to it and is left out.
    """
    scores_BB = embedded_B2D[:, 0] @ embedded_B2D[:, 1].T
    same = (image_B[:, None] == image_B) & ~torch.eye(len(image_B), dtype=torch.bool, device=image_B.device)
    scores_BB = scores_BB.masked_fill(same, torch.finfo(scores_BB.dtype).min)
    own_B = torch.arange(len(image_B), device=image_B.device)
    return (cross_entropy(scores_BB, own_B) + cross_entropy(scores_BB.T, own_B)) / 2


def embed(
    answer: Answer, inputs: Inputs, image_of: list[int], *, batch: int, called: Callable[[int], str]
) -> tuple[Tensor, Tensor]:
    """Embed every text with its own image, `batch` at a time: float32 [T, D] and [I, D].

    Raises:
        VlcompressError: NaN or infinity, see `finite`.
    """
    rows = []
    for start in range(0, len(image_of), batch):
        texts = range(start, min(start + batch, len(image_of)))
        rows.append(finite(answer(inputs([(text, image_of[text]) for text in texts])), texts, called))
    embedded_T2D = torch.cat(rows)
    first_I = [image_of.index(image) for image in range(max(image_of) + 1)]
    return embedded_T2D[:, 0], embedded_T2D[first_I, 1]


def blocks(text_TD: Tensor, image_ID: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Multiply block by block: rows, columns and their scores [t, i]."""
    for first in range(0, len(image_ID), BLOCK):
        columns = slice(first, min(first + BLOCK, len(image_ID)))
        for start in range(0, len(text_TD), BLOCK):
            rows = slice(start, min(start + BLOCK, len(text_TD)))
            yield rows, columns, (text_TD[rows].double() @ image_ID[columns].double().T).float()


def products(text_TD: Tensor, image_TD: Tensor) -> Tensor:
    """Multiply each text with the image of its row: float32 [T].

    Here and in `blocks` sums are float64, so that equal pairs get equal scores whatever order they are summed in: a
    model that embeds everything alike would else be right by the noise of rounding.
    """
    return (text_TD.double() * image_TD.double()).sum(dim=1).float()

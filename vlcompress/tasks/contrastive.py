"""Self-supervised pre-training on pictures without labels: two views of a picture belong together.

What simCLR (Chen et al., ICML 2020) and MoCo v2 (Chen et al., 2020) share: how views are made, and the score that
Chen et al. (CVPR 2021) judge such a pre-training by. The losses are in `vlcompress.tasks.simclr` and `.moco`. The
projection is the model's one linear head; the published code has a second layer.

Shapes: B pictures, E = 2B views (first views, then second views in the same order), D width of the projection.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, normalize

from vlcompress.data.examples import ClassExample, TaskData
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Answer, PerExampleTask
from vlcompress.tasks.preprocessing import NO_TEXT, Pixels, Preprocessor
from vlcompress.tasks.pretraining_task import nothing_to_answer

SCORED_TOGETHER = 256
"""Pictures among whose views a partner is looked for, as `vlcompress.training.loop.evaluate` asks for them."""
WIDTH = 64
"""Of the projection."""
LEAST_AREA = 0.35
"""Smallest part of a picture that a view shows."""
JITTER = 0.3
"""Brightness, contrast and saturation change by a factor of up to 1 ± this."""
GREY_RATE = 0.2

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class ContrastiveTask(PerExampleTask):
    """Pictures of some splits, two views of each; a subclass has the loss.

    The score of a picture is the share of its two views whose nearest neighbour by cosine, among all other views of
    the batch, is its own other view.
    """

    metric = "top-1 retrieval of the other view"
    hidden = False
    views = 2
    variant = ""

    def __init__(self, data: TaskData[ClassExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor)
        self.head = Head("classes", tuple(str(place) for place in range(WIDTH)), self.variant)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the loss of a batch, a scalar."""

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make two views of each of these pictures; inputs [E, ...], targets "other" int64 [E]: each view's partner."""
        images = np.stack([np.asarray(self._preprocessor.image(self._examples[index].image)) for index in indices])
        views = np.concatenate([view(images, rng), view(images, rng)])
        samples = [self._preprocessor.sample(NO_TEXT, image) for image in views]
        return Batch(self._preprocessor.batch(samples), {"other": partners(len(views))})

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score each picture in {0, 0.5, 1} [B], and name the view that its first view is nearest to [B]."""
        nearest_E = without_self(cosines(logits)).argmax(dim=1)
        hits_2B = (nearest_E == targets["other"]).float().reshape(2, -1)
        return hits_2B.mean(dim=0), nearest_E[: hits_2B.shape[1]]

    def constant(self) -> float:
        """Score chance: one of all other views that are scored together."""
        return 1 / (2 * min(len(self), SCORED_TOGETHER) - 1)

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Refuse: nothing is asked."""
        raise nothing_to_answer()


def partners(views: int, device: torch.device | None = None) -> Tensor:
    """Number the row of each view's partner, int64 [E]."""
    return torch.arange(views, device=device).roll(views // 2)


def cosines(projected_ED: Tensor) -> Tensor:
    """Compute the cosine of each two rows, [E, E]."""
    unit_ED = normalize(projected_ED, dim=1)
    return unit_ED @ unit_ED.T


def without_self(scores_EE: Tensor) -> Tensor:
    """Mask scores [E, E] by minus infinity on the diagonal."""
    return scores_EE.masked_fill(torch.eye(len(scores_EE), dtype=torch.bool, device=scores_EE.device), -torch.inf)


def view(images_BHWC: Pixels, rng: torch.Generator) -> Pixels:
    """Make one view of each picture: a part of it at full size, perhaps mirrored, its colours changed or gone.

    simCLR's augmentations without the blur, which it leaves out on pictures of 32 pixels too.

    Args:
        images_BHWC: uint8 [B, height, width, 3].
        rng: the only source of chance.
    """
    pixels_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float() / 255
    seen_BCHW = _recoloured(_cropped(pixels_BCHW, rng), rng)
    out: Pixels = (255 * seen_BCHW).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return out


def _cropped(pixels_BCHW: Tensor, rng: torch.Generator) -> Tensor:
    """Show a square part of each picture, of an area in LEAST_AREA..1, mirrored with chance one half."""
    count = len(pixels_BCHW)
    scale_B = (LEAST_AREA + (1 - LEAST_AREA) * torch.rand(count, generator=rng)).sqrt()
    middle_2B = (2 * torch.rand(2, count, generator=rng) - 1) * (1 - scale_B)
    mirror_B = 1 - 2 * torch.randint(2, (count,), generator=rng)
    zero_B = torch.zeros(count)
    rows = (scale_B * mirror_B, zero_B, middle_2B[0], zero_B, scale_B, middle_2B[1])
    grid = affine_grid(torch.stack(rows, dim=1).reshape(count, 2, 3), list(pixels_BCHW.shape), align_corners=False)
    return grid_sample(pixels_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recoloured(pixels_BCHW: Tensor, rng: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation, and make some pictures grey."""
    count = len(pixels_BCHW)
    factors_3B = 1 + JITTER * (2 * torch.rand(3, count, generator=rng) - 1)
    brightness, contrast, saturation = factors_3B.reshape(3, count, 1, 1, 1)
    grey_B = torch.rand(count, generator=rng) < GREY_RATE
    pixels = pixels_BCHW * brightness
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * contrast
    luma = (pixels * torch.tensor(_LUMA).reshape(3, 1, 1)).sum(dim=1, keepdim=True)
    coloured: Tensor = luma + (pixels - luma) * saturation * (~grey_B).reshape(count, 1, 1, 1)
    return coloured

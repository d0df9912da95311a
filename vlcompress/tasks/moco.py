"""MoCo v2 (He et al., CVPR 2020; Chen et al., 2020): a view's partner is told apart from keys of earlier batches.

Shapes: B pictures, Q keys in the queue, D width of the projection.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlcompress.models.objective import Batch
from vlcompress.models.resnet.momentum import MOMENTUM_VARIANT, follow, remember
from vlcompress.tasks.contrastive import ContrastiveTask

TEMPERATURE = 0.2
"""MoCo v2's."""


class MocoTask(ContrastiveTask):
    """Pictures under MoCo's loss; the model has a key encoder and a queue (`vlcompress.models.resnet.momentum`)."""

    variant = MOMENTUM_VARIANT

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute InfoNCE of the first views against the second views' keys; the key side moves on by a step."""
        pixels = batch.inputs["pixel_values"]
        first, second = pixels.chunk(2)
        queries_BD = normalize(self.family.logits(model, {"pixel_values": first}), dim=1)
        with torch.no_grad():
            keys_BD = normalize(self.family.logits(follow(model), {"pixel_values": second}), dim=1)
        loss = info_nce(queries_BD, keys_BD, model.get_buffer("queue"))
        remember(model, keys_BD)
        return loss


def info_nce(queries_BD: Tensor, keys_BD: Tensor, queue_QD: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Compute the mean cross entropy of each query's own key among it and the queue (MoCo, equation 1).

    Args:
        queries_BD, keys_BD, queue_QD: rows of length 1.
        temperature: cosines are divided by it.
    """
    own_B1 = (queries_BD * keys_BD).sum(dim=1, keepdim=True)
    # A copy of the queue: the backward pass comes after the queue has moved on.
    scores = torch.cat([own_B1, queries_BD @ queue_QD.clone().T], dim=1) / temperature
    return cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))

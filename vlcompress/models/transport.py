"""Word-region alignment by optimal transport (UNITER section 3.2): how far a text is from an image.

The plan is found by IPOT (Xie et al. 2018, "A Fast Proximal Point Method for Computing Exact Wasserstein Distance",
algorithm 1) between uniform weights; constants are those of ChenRocks/UNITER ``model/ot.py``, which ViLT shares.

Shapes: B batch, T words, R regions, H hidden width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

BETA = 0.5
ITERATIONS = 50
_EPS = 1e-5  # of the norm that hidden states are divided by


def transport_distance(text_BTH: Tensor, image_BRH: Tensor, words_BT: Tensor, regions_BR: Tensor) -> Tensor:
    """Compute the cost of the best transport from words to regions, float32 [B], with a gradient to both.

    Moving a word to a region costs 1 minus the cosine of their hidden states; the plan itself has no gradient.

    Args:
        text_BTH: hidden states of the words.
        image_BRH: hidden states of the regions.
        words_BT: bool, True where there is a word; at least one a row.
        regions_BR: bool, likewise.
    """
    text, image = (normalize(x.float(), dim=-1, eps=_EPS) for x in (text_BTH, image_BRH))
    cost_BTR = 1 - text @ image.mT
    return (transport_plan(cost_BTR.detach(), words_BT, regions_BR) * cost_BTR).sum(dim=(1, 2))


@torch.no_grad()
def transport_plan(
    cost_BTR: Tensor, words_BT: Tensor, regions_BR: Tensor, *, beta: float = BETA, iterations: int = ITERATIONS
) -> Tensor:
    """Find the plan [B, T, R]: 0 at padding; each row's sum nears 1/words, each column's is 1/regions or nears it."""
    both_BTR = words_BT[:, :, None] & regions_BR[:, None, :]
    nearness_BTR = torch.exp(-cost_BTR / beta) * both_BTR
    plan_BTR = both_BTR.to(cost_BTR.dtype)
    words_B1, regions_B1 = (mask.sum(dim=1, keepdim=True) for mask in (words_BT, regions_BR))
    left_BT = words_BT / words_B1
    for _ in range(iterations):
        scaled_BTR = nearness_BTR * plan_BTR
        right_BR = _inverse(regions_B1 * (left_BT[:, None] @ scaled_BTR)[:, 0], regions_BR)
        left_BT = _inverse(words_B1 * (scaled_BTR @ right_BR[..., None])[..., 0], words_BT)
        plan_BTR = left_BT[:, :, None] * scaled_BTR * right_BR[:, None, :]
    return plan_BTR


def _inverse(x: Tensor, mask: Tensor) -> Tensor:
    """Invert x where the mask is true and 0 elsewhere."""
    return torch.where(mask, 1 / x.where(mask, 1.0), 0.0)

"""The cheapest way to move a sentence's words onto a picture's parts: the distance of word-region alignment.

UNITER (Chen et al., ECCV 2020, section 3.2) and ViLT (section 3.3) add it to image-text matching. The plan comes from
IPOT, the proximal point method of Xie et al. (UAI 2020), with the constants of both official codes.

Shapes: B batch, T words, P regions or patches, H hidden width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

BETA = 0.5
"""Weight of the proximal term; the cost is divided by it."""

STEPS = 50
"""Steps of IPOT, each with one inner iteration."""


def transport_distance(words_BTH: Tensor, parts_BPH: Tensor, words_BT: Tensor, parts_BP: Tensor) -> Tensor:
    """Give the cost of the transport plan from words to parts, where the cost of a pair is 1 - cosine.

    Args:
        words_BTH: hidden states of the words.
        parts_BPH: hidden states of the regions or patches.
        words_BT: bool, which words take part; at least one of each sentence.
        parts_BP: bool, which parts take part; at least one of each picture.

    Returns:
        float32 [B], at least 0; its gradient goes through the costs alone, not through the plan.
    """
    both_BTP = words_BT[:, :, None] & parts_BP[:, None, :]
    words, parts = (normalize(side.float(), dim=-1, eps=1e-5) for side in (words_BTH, parts_BPH))
    cost_BTP = (1 - words @ parts.transpose(1, 2)).masked_fill(~both_BTP, 0)
    with torch.no_grad():
        plan_BTP = _plan(cost_BTP, both_BTP, words_BT, parts_BP)
    return (cost_BTP * plan_BTP).sum((1, 2))


def _plan(cost_BTP: Tensor, both_BTP: Tensor, words_BT: Tensor, parts_BP: Tensor) -> Tensor:
    """Give IPOT's plan [B, T, P] between uniform weights on both sides, 0 where a side is padded."""
    words, parts = words_BT.sum(1, keepdim=True), parts_BP.sum(1, keepdim=True)
    kernel_BTP = (-cost_BTP / BETA).exp() * both_BTP
    plan_BTP = both_BTP.to(cost_BTP.dtype)
    scale_BT = words_BT / words.to(cost_BTP.dtype)
    for _ in range(STEPS):
        plan_BTP = plan_BTP * kernel_BTP
        scale_BP = _inverse(parts * (scale_BT[:, :, None] * plan_BTP).sum(1), parts_BP)
        scale_BT = _inverse(words * (plan_BTP * scale_BP[:, None, :]).sum(2), words_BT)
        plan_BTP = scale_BT[:, :, None] * plan_BTP * scale_BP[:, None, :]
    return plan_BTP


def _inverse(sums: Tensor, there: Tensor) -> Tensor:
    return torch.where(there, 1 / sums.where(there, 1), 0)

"""Controls: what a ticket must beat to mean anything. Each changes one thing about it.

*random* keeps a random mask of the same pattern and sparsity on θ0 (uniform over all prunable units together; the paper
does not say whether its random masks match the sparsity of each layer). *shuffle* keeps the ticket's mask on θ0 with
the entries of each weight shuffled (θ''0 of Gan et al. 2022). *reinit* keeps the mask on random weights.
*language* keeps the mask on the weights of a language model (θ'0), which knows no pictures; what it lacks is random.
*unstructured* runs the same rounds without the block constraint: what the blocks cost.

Chen et al. (CVPR 2021, section 5.2) change the mask itself: its *complement*, and one that is *perturbed*.
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vlcompress.pruning.mask import Masks


def shuffled(tensors: Mapping[str, Tensor], names: Iterable[str], seed: int) -> dict[str, Tensor]:
    """Shuffle the entries of each named tensor within itself, at random from `seed`; the others stay."""
    return dict(tensors) | {name: _permuted(tensors[name], f"{seed}:{name}") for name in names}


def _permuted(tensor: Tensor, key: str) -> Tensor:
    return tensor.reshape(-1)[torch.randperm(tensor.numel(), generator=_generator(key))].reshape(tensor.shape)


def complement(masks: Masks) -> Masks:
    """Keep exactly what the masks prune (Chen et al., CVPR 2021, section 5.2)."""
    return Masks({name: ~mask for name, mask in masks.items()})


def perturbed(masks: Masks, share: float, seed: int) -> Masks:
    """Prune a share of what the masks keep, and keep the same share of what they prune (Chen et al., section 5.2).

    Args:
        masks: to be changed.
        share: in [0, 1]; of each kind, in each weight, rounded.
        seed: of the choice, together with the weight's name.
    """
    return Masks({name: _flipped(mask, share, f"{seed}:{name}") for name, mask in masks.items()})


def _flipped(mask: Tensor, share: float, key: str) -> Tensor:
    changed = mask.clone().reshape(-1)
    for kind in (True, False):
        places = (mask.reshape(-1) == kind).nonzero()[:, 0]
        chosen = torch.randperm(len(places), generator=_generator(f"{key}:{kind}"))[: round(share * len(places))]
        changed[places[chosen]] = not kind
    return changed.reshape(mask.shape)


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little"))

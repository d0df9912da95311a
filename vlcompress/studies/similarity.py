"""What several masks have in common, beside chance, and how many whole kernels they remove (Chen et al., CVPR 2021).

The overlap of masks is the number of weights that all of them keep, over the number that any of them keeps; of two it
is Jaccard's. Chance is what independent masks of the same densities give: densities of the whole network, or of each
layer by itself. Masks found by magnitude share how dense each layer is, and so pass the first chance easily.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from vlcompress.pruning.mask import Masks


def overlap(masks: Sequence[Masks]) -> float:
    """Divide |all keep| by |any keeps| over all weights, in 0..1."""
    layers = [torch.stack([one[name] for one in masks]) for name in masks[0]]
    any_keeps = sum(int(layer.any(dim=0).sum()) for layer in layers)
    return sum(int(layer.all(dim=0).sum()) for layer in layers) / any_keeps if any_keeps else 1.0


def chance(masks: Sequence[Masks], *, by_layer: bool = False) -> float:
    """Expect the overlap of independent masks of these densities: of the network, or of each layer."""
    if by_layer:
        sizes = [mask.numel() for mask in masks[0].values()]
        densities = [[float(one[name].float().mean()) for one in masks] for name in masks[0]]
    else:
        sizes, densities = [1], [[1 - one.sparsity for one in masks]]
    every = sum(size * prod(of_all) for size, of_all in zip(sizes, densities, strict=True))
    some = sum(size * (1 - prod(1 - d for d in of_all)) for size, of_all in zip(sizes, densities, strict=True))
    return every / some if some else 1.0


def zero_kernels(masks: Masks) -> tuple[int, int]:
    """Count the kernels [height, width] larger than 1x1 that keep no weight, and all such kernels."""
    kernels = [_kernels(mask) for mask in masks.values() if mask.dim() == 4 and mask.shape[2] * mask.shape[3] > 1]
    return sum(int((~one.any(dim=1)).sum()) for one in kernels), sum(len(one) for one in kernels)


def _kernels(mask: Tensor) -> Tensor:
    """Flatten a convolution's mask [out, in, height, width] to [out * in, height * width]."""
    return mask.flatten(0, 1).flatten(1)
